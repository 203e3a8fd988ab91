//! What a group of version 2 uses (`io.containerd.cgroups.v2.Metrics`).

use std::collections::BTreeMap;
use std::path::Path;

use super::files;
use crate::{Error, Result};

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
    /// How many there may be; `u64::MAX`: no limit.
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
pub fn read(path: &Path) -> Result<Stats> {
    if !path.is_dir() {
        let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
        return Err(Error::path("read control group", path, gone));
    }
    let io = files::text(path, "io.stat")?;
    Ok(Stats {
        pids: read_pids(path)?,
        cpu: files::table(path, "cpu.stat")?,
        cpu_pressure: pressure(path, "cpu.pressure")?,
        memory: read_memory(path)?,
        rdma_current: files::rdma(path, "rdma.current")?,
        rdma_limit: files::rdma(path, "rdma.max")?,
        io: io.map(|text| text.lines().filter_map(parse_io).collect()),
        io_pressure: pressure(path, "io.pressure")?,
        hugetlb: read_hugetlb(path)?,
        memory_events: read_events(path)?,
    })
}

fn read_pids(path: &Path) -> Result<Option<PidsStat>> {
    let Some(current) = files::number(path, "pids.current")? else { return Ok(None) };
    let limit = files::number(path, "pids.max")?.unwrap_or_default();
    Ok(Some(PidsStat { current, limit }))
}

fn read_memory(path: &Path) -> Result<Option<MemoryStat>> {
    let Some(stat) = files::table(path, "memory.stat")? else { return Ok(None) };
    let number = |name| files::number(path, name).map(Option::unwrap_or_default);
    Ok(Some(MemoryStat {
        stat,
        usage: number("memory.current")?,
        usage_limit: number("memory.max")?,
        max_usage: number("memory.peak")?,
        swap_usage: number("memory.swap.current")?,
        swap_limit: number("memory.swap.max")?,
        swap_max_usage: number("memory.swap.peak")?,
        pressure: pressure(path, "memory.pressure")?,
    }))
}

fn read_events(path: &Path) -> Result<Option<MemoryEvents>> {
    let Some(table) = files::table(path, "memory.events")? else { return Ok(None) };
    let number = |key| table.get(key).copied().unwrap_or_default();
    Ok(Some(MemoryEvents {
        low: number("low"),
        high: number("high"),
        max: number("max"),
        oom: number("oom"),
        oom_kill: number("oom_kill"),
    }))
}

fn read_hugetlb(path: &Path) -> Result<Vec<HugetlbStat>> {
    let stat = |pagesize: String| {
        let number = |suffix: &str| files::number(path, &format!("hugetlb.{pagesize}.{suffix}"));
        let events = files::table(path, &format!("hugetlb.{pagesize}.events"))?.unwrap_or_default();
        Ok(HugetlbStat {
            current: number("current")?.unwrap_or_default(),
            max: number("max")?.unwrap_or_default(),
            failcnt: events.get("max").copied().unwrap_or_default(),
            pagesize: pagesize.clone(),
        })
    };
    files::page_sizes(path, "current")?.into_iter().map(stat).collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn parse_io(line: &str) -> Option<IoEntry> {
    let mut fields = line.split_whitespace();
    let (major, minor) = fields.next()?.split_once(':')?;
    let mut entry =
        IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
        let value = files::parse(value).unwrap_or_default();
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

fn pressure(path: &Path, name: &str) -> Result<Option<Pressure>> {
    let Some(text) = files::text(path, name)? else { return Ok(None) };
    let line = |word: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(word));
        lines.next().map(parse_pressure)
    };
    Ok(Some(Pressure { some: line("some "), full: line("full ") }))
}

/// `avg10=0.00 avg60=1.25 avg300=0.50 total=1234`.
fn parse_pressure(fields: &str) -> PressureLine {
    let mut line = PressureLine::default();
    for (key, value) in fields.split_whitespace().filter_map(|field| field.split_once('=')) {
        match key {
            "avg10" => line.avg10 = hundredths(value),
            "avg60" => line.avg60 = hundredths(value),
            "avg300" => line.avg300 = hundredths(value),
            "total" => line.total = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    line
}

/// The kernel always prints two decimals.
fn hundredths(value: &str) -> u32 {
    value.replace('.', "").parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            ("cpu.stat", "usage_usec 10\nuser_usec 6\nnr_throttled 1\n"),
            ("cpu.pressure", "some avg10=1.25 avg60=0.00 avg300=12.50 total=99\n"),
            ("memory.stat", "anon 4096\nfile 0\n"),
            ("memory.current", "8192\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n"),
            ("io.stat", "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:1 \n"),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
            ("hugetlb.2MB.events", "max 5\n"),
            ("rdma.max", "mlx4_0 hca_handle=2 hca_object=max\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let stats = read(dir.path()).unwrap();
        assert_eq!(stats.pids, Some(PidsStat { current: 2, limit: u64::MAX }));
        assert_eq!(stats.cpu.unwrap()["usage_usec"], 10);
        let some = stats.cpu_pressure.unwrap().some.unwrap();
        assert_eq!((some.avg10, some.avg300, some.total), (125, 1250, 99));
        let memory = stats.memory.unwrap();
        assert_eq!((memory.usage, memory.usage_limit), (8192, u64::MAX));
        assert_eq!(stats.memory_events.unwrap().oom_kill, 1);
        let io = stats.io.unwrap();
        assert_eq!((io.len(), io[0].wios, io[1].major), (2, 4, 7));
        assert_eq!((stats.hugetlb.len(), stats.hugetlb[0].failcnt), (1, 5));
        assert_eq!(stats.rdma_limit[0].hca_objects, u32::MAX);
        assert_eq!(read(Path::new("/no/such/group")).unwrap_err().errno(), Some(libc::ENOENT));
    }
}
