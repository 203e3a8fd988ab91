//! What a group of version 1 uses (`io.containerd.cgroups.v1.Metrics`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Result;

/// Everything. A controller that is missing leaves its part `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Per page size.
    pub hugetlb: Vec<HugetlbStat>,
    /// Numbers of processes.
    pub pids: Option<PidsStat>,
    /// Processor time.
    pub cpu: Option<CpuStat>,
    /// Memory.
    pub memory: Option<MemoryStat>,
    /// Block devices.
    pub blkio: Option<BlkIoStat>,
    /// RDMA devices.
    pub rdma: Option<RdmaStat>,
    /// `memory.oom_control`.
    pub memory_oom_control: Option<MemoryOomControl>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugetlbStat {
    /// Bytes in use.
    pub usage: u64,
    /// Most bytes ever in use.
    pub max: u64,
    /// How often the limit refused a page.
    pub failcnt: u64,
    /// The size, as in the file's name: `2MB`.
    pub pagesize: String,
}

/// Numbers of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidsStat {
    /// How many there are.
    pub current: u64,
    /// How many there may be; 0: no limit.
    pub limit: u64,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// All, in nanoseconds.
    pub usage_total: u64,
    /// In the kernel, in nanoseconds.
    pub usage_kernel: u64,
    /// In user mode, in nanoseconds.
    pub usage_user: u64,
    /// Per processor, in nanoseconds.
    pub usage_per_cpu: Vec<u64>,
    /// Enforcement intervals that have elapsed.
    pub throttling_periods: u64,
    /// Of these, those in which the group was throttled.
    pub throttled_periods: u64,
    /// For how long it was, in nanoseconds.
    pub throttled_time: u64,
}

/// A memory counter with its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEntry {
    /// The limit, in bytes.
    pub limit: u64,
    /// In use, in bytes.
    pub usage: u64,
    /// The most ever in use, in bytes.
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    /// `memory.stat`, all fields by the kernel's name: `cache`, `rss`,
    /// `total_inactive_file`, …
    pub stat: BTreeMap<String, u64>,
    /// `memory.*`.
    pub usage: Option<MemoryEntry>,
    /// `memory.memsw.*`.
    pub swap: Option<MemoryEntry>,
    /// `memory.kmem.*`.
    pub kernel: Option<MemoryEntry>,
    /// `memory.kmem.tcp.*`.
    pub kernel_tcp: Option<MemoryEntry>,
}

/// One line of a block device's statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkIoEntry {
    /// `Read`, `Write`, …; empty for sums.
    pub op: String,
    /// The device's node, when it is known.
    pub device: String,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// The counter.
    pub value: u64,
}

/// Block devices, each list one file of the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkIoStat {
    /// `io_service_bytes_recursive`.
    pub io_service_bytes_recursive: Vec<BlkIoEntry>,
    /// `io_serviced_recursive`.
    pub io_serviced_recursive: Vec<BlkIoEntry>,
    /// `io_queued_recursive`.
    pub io_queued_recursive: Vec<BlkIoEntry>,
    /// `io_service_time_recursive`.
    pub io_service_time_recursive: Vec<BlkIoEntry>,
    /// `io_wait_time_recursive`.
    pub io_wait_time_recursive: Vec<BlkIoEntry>,
    /// `io_merged_recursive`.
    pub io_merged_recursive: Vec<BlkIoEntry>,
    /// `time_recursive`.
    pub io_time_recursive: Vec<BlkIoEntry>,
    /// `sectors_recursive`.
    pub sectors_recursive: Vec<BlkIoEntry>,
}

/// RDMA devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaStat {
    /// In use.
    pub current: Vec<RdmaEntry>,
    /// Limits.
    pub limit: Vec<RdmaEntry>,
}

/// One RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// Its name.
    pub device: String,
    /// Handles.
    pub hca_handles: u32,
    /// Objects.
    pub hca_objects: u32,
}

/// `memory.oom_control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOomControl {
    /// Non-zero: killing is disabled.
    pub oom_kill_disable: u64,
    /// Non-zero: the group waits for memory.
    pub under_oom: u64,
    /// How many were killed.
    pub oom_kill: u64,
}

/// Reads a group; `controllers` as in [`super::Cgroup::V1`].
///
/// # Errors
/// As [`super::Cgroup::stats`].
pub fn read(_controllers: &BTreeMap<String, PathBuf>) -> Result<Stats> {
    todo!()
}
