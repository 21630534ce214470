mod bench;
mod faults;
mod life;
mod restarts;
