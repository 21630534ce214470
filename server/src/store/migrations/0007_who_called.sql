-- Who moved the end of a lease, and who gave it back (JSON), beside who asked for it.
ALTER TABLE lease_events ADD COLUMN caller TEXT;
ALTER TABLE leases ADD COLUMN end_wish_by TEXT;
-- The token that a lease was asked for with, as the book of tokens has it: a name is given again to another.
-- Leases of before this, of the operator and of jobs have none.
ALTER TABLE leases ADD COLUMN asked_token TEXT;
