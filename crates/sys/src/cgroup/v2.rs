//! What a group of version 2 uses (`io.containerd.cgroups.v2.Metrics`).

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;

/// Everything. A controller that is missing leaves its part `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Numbers of processes.
    pub pids: Option<PidsStat>,
    /// `cpu.stat`, by the kernel's names: `usage_usec`, `nr_throttled`, …
    pub cpu: Option<BTreeMap<String, u64>>,
    /// Pressure on the processors.
    pub cpu_pressure: Option<Pressure>,
    /// Memory.
    pub memory: Option<MemoryStat>,
    /// RDMA devices in use.
    pub rdma_current: Vec<super::v1::RdmaEntry>,
    /// RDMA limits.
    pub rdma_limit: Vec<super::v1::RdmaEntry>,
    /// Block devices.
    pub io: Option<Vec<IoEntry>>,
    /// Pressure on the block devices.
    pub io_pressure: Option<Pressure>,
    /// Per page size.
    pub hugetlb: Vec<HugetlbStat>,
    /// `memory.events`.
    pub memory_events: Option<MemoryEvents>,
}

/// Numbers of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidsStat {
    /// How many there are.
    pub current: u64,
    /// How many there may be; 0: no limit.
    pub limit: u64,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    /// `memory.stat`, by the kernel's names: `anon`, `file`, …
    pub stat: BTreeMap<String, u64>,
    /// In use, in bytes.
    pub usage: u64,
    /// The limit, in bytes; `u64::MAX`: none.
    pub usage_limit: u64,
    /// The most ever in use, in bytes; 0 where the kernel does not tell.
    pub max_usage: u64,
    /// Swap in use, in bytes.
    pub swap_usage: u64,
    /// Swap limit, in bytes; `u64::MAX`: none.
    pub swap_limit: u64,
    /// The most swap ever in use, in bytes.
    pub swap_max_usage: u64,
    /// Pressure.
    pub pressure: Option<Pressure>,
}

/// Pressure stall information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Option<PressureLine>,
    /// All tasks waited.
    pub full: Option<PressureLine>,
}

/// One line of pressure stall information. Averages in hundredths of a
/// percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PressureLine {
    /// Over 10 seconds.
    pub avg10: u32,
    /// Over 60 seconds.
    pub avg60: u32,
    /// Over 300 seconds.
    pub avg300: u32,
    /// Total, in microseconds.
    pub total: u64,
}

/// One block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes read.
    pub rbytes: u64,
    /// Bytes written.
    pub wbytes: u64,
    /// Reads.
    pub rios: u64,
    /// Writes.
    pub wios: u64,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugetlbStat {
    /// Bytes in use.
    pub current: u64,
    /// The limit; `u64::MAX`: none.
    pub max: u64,
    /// The size, as in the file's name: `2MB`.
    pub pagesize: String,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// `memory.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// Reclaimed although below `memory.low`.
    pub low: u64,
    /// Throttled above `memory.high`.
    pub high: u64,
    /// About to go over `memory.max`.
    pub max: u64,
    /// Reached the limit with reclaim failing.
    pub oom: u64,
    /// Processes killed.
    pub oom_kill: u64,
}

/// Reads a group.
///
/// # Errors
/// As [`super::Cgroup::stats`].
pub fn read(_path: &Path) -> Result<Stats> {
    todo!()
}
