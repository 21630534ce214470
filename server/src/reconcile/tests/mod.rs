mod bench;
mod closing;
mod database;
mod disk;
mod faults;
mod life;
mod restarts;
mod upkeep;
