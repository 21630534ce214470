-- How often the holder of a lease was told that its machine runs out of something. What was told is among its
-- events; the number is what keeps a guest from making ever more of them.
ALTER TABLE leases ADD COLUMN troubles BIGINT NOT NULL DEFAULT 0;
