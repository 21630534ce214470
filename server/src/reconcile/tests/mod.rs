mod bench;
mod disk;
mod faults;
mod life;
mod restarts;
mod watching;
