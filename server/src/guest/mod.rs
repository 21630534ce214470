//! Room `guest`.
