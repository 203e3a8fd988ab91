//! What a group of version 1 uses (`io.containerd.cgroups.v1.Metrics`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files;
use crate::{Error, Result};

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
pub fn read(controllers: &BTreeMap<String, PathBuf>) -> Result<Stats> {
    if let Some(dir) =
        controllers.values().next().filter(|_| !controllers.values().any(|d| d.is_dir()))
    {
        let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
        return Err(Error::path("read control group", dir, gone));
    }
    let dir = |name: &str| controllers.get(name).map(PathBuf::as_path);
    Ok(Stats {
        hugetlb: dir("hugetlb").map(read_hugetlb).transpose()?.unwrap_or_default(),
        pids: dir("pids").map(read_pids).transpose()?.flatten(),
        cpu: read_cpu(dir("cpu"), dir("cpuacct"))?,
        memory: dir("memory").map(read_memory).transpose()?.flatten(),
        blkio: dir("blkio").map(read_blkio).transpose()?,
        rdma: dir("rdma").map(read_rdma).transpose()?,
        memory_oom_control: dir("memory").map(read_oom_control).transpose()?.flatten(),
    })
}

fn read_hugetlb(dir: &Path) -> Result<Vec<HugetlbStat>> {
    let sizes = files::page_sizes(dir, "usage_in_bytes")?;
    let stat = |pagesize: String| {
        let number = |suffix: &str| files::number(dir, &format!("hugetlb.{pagesize}.{suffix}"));
        Ok(HugetlbStat {
            usage: number("usage_in_bytes")?.unwrap_or_default(),
            max: number("max_usage_in_bytes")?.unwrap_or_default(),
            failcnt: number("failcnt")?.unwrap_or_default(),
            pagesize: pagesize.clone(),
        })
    };
    sizes.into_iter().map(stat).collect()
}

fn read_pids(dir: &Path) -> Result<Option<PidsStat>> {
    let Some(current) = files::number(dir, "pids.current")? else { return Ok(None) };
    // containerd shows no limit as 0 here.
    let limit = files::number(dir, "pids.max")?.filter(|max| *max != u64::MAX);
    Ok(Some(PidsStat { current, limit: limit.unwrap_or_default() }))
}

fn read_cpu(cpu: Option<&Path>, cpuacct: Option<&Path>) -> Result<Option<CpuStat>> {
    let mut stat = CpuStat::default();
    let mut found = false;
    if let Some(dir) = cpuacct
        && let Some(total) = files::number(dir, "cpuacct.usage")?
    {
        let table = files::table(dir, "cpuacct.stat")?.unwrap_or_default();
        let nanos = |key| table.get(key).copied().unwrap_or_default() * NANOS_PER_TICK;
        stat.usage_total = total;
        stat.usage_user = nanos("user");
        stat.usage_kernel = nanos("system");
        let each = files::text(dir, "cpuacct.usage_percpu")?.unwrap_or_default();
        stat.usage_per_cpu = each.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        found = true;
    }
    if let Some(dir) = cpu
        && let Some(table) = files::table(dir, "cpu.stat")?
    {
        let number = |key| table.get(key).copied().unwrap_or_default();
        stat.throttling_periods = number("nr_periods");
        stat.throttled_periods = number("nr_throttled");
        stat.throttled_time = number("throttled_time");
        found = true;
    }
    Ok(found.then_some(stat))
}

/// USER_HZ, which is 100 wherever Linux runs.
const NANOS_PER_TICK: u64 = 10_000_000;

fn read_memory(dir: &Path) -> Result<Option<MemoryStat>> {
    let Some(stat) = files::table(dir, "memory.stat")? else { return Ok(None) };
    let entry = |module: &str| -> Result<Option<MemoryEntry>> {
        let number = |suffix: &str| files::number(dir, &format!("memory.{module}{suffix}"));
        // Zeroes where the kernel does not count: readers of containerd's
        // metrics do not expect an entry to be missing.
        Ok(Some(MemoryEntry {
            limit: number("limit_in_bytes")?.unwrap_or_default(),
            usage: number("usage_in_bytes")?.unwrap_or_default(),
            max: number("max_usage_in_bytes")?.unwrap_or_default(),
            failcnt: number("failcnt")?.unwrap_or_default(),
        }))
    };
    Ok(Some(MemoryStat {
        stat,
        usage: entry("")?,
        swap: entry("memsw.")?,
        kernel: entry("kmem.")?,
        kernel_tcp: entry("kmem.tcp.")?,
    }))
}

fn read_oom_control(dir: &Path) -> Result<Option<MemoryOomControl>> {
    let Some(table) = files::table(dir, "memory.oom_control")? else { return Ok(None) };
    let number = |key| table.get(key).copied().unwrap_or_default();
    Ok(Some(MemoryOomControl {
        oom_kill_disable: number("oom_kill_disable"),
        under_oom: number("under_oom"),
        oom_kill: number("oom_kill"),
    }))
}

fn read_rdma(dir: &Path) -> Result<RdmaStat> {
    Ok(RdmaStat {
        current: files::rdma(dir, "rdma.current")?,
        limit: files::rdma(dir, "rdma.max")?,
    })
}

/// Which scheduler counts varies; the throttling layer always does, but only
/// bytes and operations.
fn read_blkio(dir: &Path) -> Result<BlkIoStat> {
    let counts = |prefix: &str| -> Result<bool> {
        let text = files::text(dir, &format!("{prefix}io_serviced_recursive"))?;
        Ok(text.is_some_and(|text| text.lines().any(|line| !line.starts_with("Total"))))
    };
    for prefix in ["blkio.bfq.", "blkio."] {
        if counts(prefix)? {
            let file = |name: &str| read_devices(dir, &format!("{prefix}{name}_recursive"));
            return Ok(BlkIoStat {
                io_service_bytes_recursive: file("io_service_bytes")?,
                io_serviced_recursive: file("io_serviced")?,
                io_queued_recursive: file("io_queued")?,
                io_service_time_recursive: file("io_service_time")?,
                io_wait_time_recursive: file("io_wait_time")?,
                io_merged_recursive: file("io_merged")?,
                io_time_recursive: file("time")?,
                sectors_recursive: file("sectors")?,
            });
        }
    }
    Ok(BlkIoStat {
        io_service_bytes_recursive: read_devices(dir, "blkio.throttle.io_service_bytes")?,
        io_serviced_recursive: read_devices(dir, "blkio.throttle.io_serviced")?,
        ..BlkIoStat::default()
    })
}

fn read_devices(dir: &Path, name: &str) -> Result<Vec<BlkIoEntry>> {
    let text = files::text(dir, name)?.unwrap_or_default();
    Ok(text.lines().filter_map(parse_device).collect())
}

/// `8:0 Read 4096` or `8:0 4096`; the sum over all devices is left out.
fn parse_device(line: &str) -> Option<BlkIoEntry> {
    let mut fields = line.split_whitespace();
    let (major, minor) = fields.next()?.split_once(':')?;
    let rest: Vec<&str> = fields.collect();
    let (op, value) = match rest[..] {
        [op, value] => (op, value),
        [value] => ("", value),
        _ => return None,
    };
    Some(BlkIoEntry {
        op: op.to_owned(),
        device: device_node(major, minor).unwrap_or_default(),
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        value: value.parse().ok()?,
    })
}

fn device_node(major: &str, minor: &str) -> Option<String> {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(format!("/dev/{}", link.file_name()?.to_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_s_groups_are_read() {
        let group = super::super::of_pid(std::process::id()).unwrap();
        match group.stats().unwrap() {
            super::super::Stats::V1(stats) => {
                assert!(stats.memory.unwrap().stat.contains_key("total_rss"));
                assert!(stats.cpu.unwrap().usage_total > 0);
            }
            super::super::Stats::V2(stats) => assert!(stats.cpu.unwrap()["usage_usec"] > 0),
        }
        let gone = BTreeMap::from([("memory".to_owned(), PathBuf::from("/no/such/group"))]);
        assert_eq!(read(&gone).unwrap_err().errno(), Some(libc::ENOENT));
    }

    #[test]
    fn device_lines_have_two_forms() {
        let entry = parse_device("254:0 Read 4096").unwrap();
        assert_eq!((entry.op.as_str(), entry.major, entry.value), ("Read", 254, 4096));
        assert_eq!(parse_device("8:16 7").unwrap().op, "");
        assert_eq!(parse_device("Total 5"), None);
        assert_eq!(parse_device("8:x Read 1"), None);
    }

    #[test]
    fn missing_controllers_leave_their_part_empty() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pids.current"), "3\n").unwrap();
        std::fs::write(dir.path().join("pids.max"), "max\n").unwrap();
        let stats = read(&BTreeMap::from([("pids".to_owned(), dir.path().to_owned())])).unwrap();
        assert_eq!(stats.pids, Some(PidsStat { current: 3, limit: 0 }));
        assert_eq!((stats.cpu, stats.memory), (None, None));
        std::fs::write(dir.path().join("pids.current"), "three\n").unwrap();
        read(&BTreeMap::from([("pids".to_owned(), dir.path().to_owned())])).unwrap_err();
    }
}
