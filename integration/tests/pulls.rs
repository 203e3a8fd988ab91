//! Pulls by davitd over bad connections, from broken registries, and cut off
//! in the midst: what arrives is whole, hardly anything is fetched twice, and
//! nothing else stays.

#[path = "pulls/faults.rs"]
mod faults;
#[path = "pulls/full_disk.rs"]
mod full_disk;
#[path = "pulls/interrupted.rs"]
mod interrupted;
#[path = "pulls/limits.rs"]
mod limits;
#[path = "pulls/seat.rs"]
mod seat;
