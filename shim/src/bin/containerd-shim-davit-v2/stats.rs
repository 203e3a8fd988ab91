//! Resource usage as the metrics messages of containerd's cgroups library.

use davit_protocols::ttrpc::metrics::{v1 as pb1, v2 as pb2};
use davit_sys::cgroup::{Stats, v1, v2};
use davit_types::Any;
use protobuf::{Message, MessageField};

/// The message for `Stats`, packed: `io.containerd.cgroups.v1.Metrics` or
/// `io.containerd.cgroups.v2.Metrics`.
///
/// # Errors
/// None in practice; encoding a message into memory can fail by its type.
pub fn packed(stats: &Stats) -> protobuf::Result<Any> {
    let (name, value) = match stats {
        Stats::V1(stats) => {
            ("io.containerd.cgroups.v1.Metrics", metrics_v1(stats).write_to_bytes()?)
        }
        Stats::V2(stats) => {
            ("io.containerd.cgroups.v2.Metrics", metrics_v2(stats).write_to_bytes()?)
        }
    };
    Ok(Any { type_url: name.to_owned(), value })
}

fn metrics_v1(stats: &v1::Stats) -> pb1::Metrics {
    pb1::Metrics {
        hugetlb: stats.hugetlb.iter().map(hugetlb_v1).collect(),
        pids: optional(stats.pids.as_ref(), |pids| pb1::PidsStat {
            current: pids.current,
            limit: pids.limit,
            ..Default::default()
        }),
        cpu: optional(stats.cpu.as_ref(), cpu_v1),
        memory: optional(stats.memory.as_ref(), memory_v1),
        blkio: optional(stats.blkio.as_ref(), blkio_v1),
        rdma: optional(stats.rdma.as_ref(), |rdma| pb1::RdmaStat {
            current: rdma.current.iter().map(rdma_v1).collect(),
            limit: rdma.limit.iter().map(rdma_v1).collect(),
            ..Default::default()
        }),
        memory_oom_control: optional(stats.memory_oom_control.as_ref(), |control| {
            pb1::MemoryOomControl {
                oom_kill_disable: control.oom_kill_disable,
                under_oom: control.under_oom,
                oom_kill: control.oom_kill,
                ..Default::default()
            }
        }),
        ..Default::default()
    }
}

fn hugetlb_v1(stat: &v1::HugetlbStat) -> pb1::HugetlbStat {
    pb1::HugetlbStat {
        usage: stat.usage,
        max: stat.max,
        failcnt: stat.failcnt,
        pagesize: stat.pagesize.clone(),
        ..Default::default()
    }
}

fn cpu_v1(cpu: &v1::CpuStat) -> pb1::CPUStat {
    let usage = pb1::CPUUsage {
        total: cpu.usage_total,
        kernel: cpu.usage_kernel,
        user: cpu.usage_user,
        per_cpu: cpu.usage_per_cpu.clone(),
        ..Default::default()
    };
    let throttling = pb1::Throttle {
        periods: cpu.throttling_periods,
        throttled_periods: cpu.throttled_periods,
        throttled_time: cpu.throttled_time,
        ..Default::default()
    };
    pb1::CPUStat {
        usage: MessageField::some(usage),
        throttling: MessageField::some(throttling),
        ..Default::default()
    }
}

fn memory_v1(memory: &v1::MemoryStat) -> pb1::MemoryStat {
    let of = |key: &str| memory.stat.get(key).copied().unwrap_or_default();
    let entry = |entry: Option<&v1::MemoryEntry>| {
        optional(entry, |entry| pb1::MemoryEntry {
            limit: entry.limit,
            usage: entry.usage,
            max: entry.max,
            failcnt: entry.failcnt,
            ..Default::default()
        })
    };
    pb1::MemoryStat {
        cache: of("cache"),
        rss: of("rss"),
        rss_huge: of("rss_huge"),
        mapped_file: of("mapped_file"),
        dirty: of("dirty"),
        writeback: of("writeback"),
        pg_pg_in: of("pgpgin"),
        pg_pg_out: of("pgpgout"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: of("hierarchical_memory_limit"),
        hierarchical_swap_limit: of("hierarchical_memsw_limit"),
        total_cache: of("total_cache"),
        total_rss: of("total_rss"),
        total_rss_huge: of("total_rss_huge"),
        total_mapped_file: of("total_mapped_file"),
        total_dirty: of("total_dirty"),
        total_writeback: of("total_writeback"),
        total_pg_pg_in: of("total_pgpgin"),
        total_pg_pg_out: of("total_pgpgout"),
        total_pg_fault: of("total_pgfault"),
        total_pg_maj_fault: of("total_pgmajfault"),
        total_inactive_anon: of("total_inactive_anon"),
        total_active_anon: of("total_active_anon"),
        total_inactive_file: of("total_inactive_file"),
        total_active_file: of("total_active_file"),
        total_unevictable: of("total_unevictable"),
        usage: entry(memory.usage.as_ref()),
        swap: entry(memory.swap.as_ref()),
        kernel: entry(memory.kernel.as_ref()),
        kernel_tcp: entry(memory.kernel_tcp.as_ref()),
        ..Default::default()
    }
}

fn blkio_v1(blkio: &v1::BlkIoStat) -> pb1::BlkIOStat {
    let entries = |entries: &[v1::BlkIoEntry]| {
        let entry = |entry: &v1::BlkIoEntry| pb1::BlkIOEntry {
            op: entry.op.clone(),
            device: entry.device.clone(),
            major: entry.major,
            minor: entry.minor,
            value: entry.value,
            ..Default::default()
        };
        entries.iter().map(entry).collect()
    };
    pb1::BlkIOStat {
        io_service_bytes_recursive: entries(&blkio.io_service_bytes_recursive),
        io_serviced_recursive: entries(&blkio.io_serviced_recursive),
        io_queued_recursive: entries(&blkio.io_queued_recursive),
        io_service_time_recursive: entries(&blkio.io_service_time_recursive),
        io_wait_time_recursive: entries(&blkio.io_wait_time_recursive),
        io_merged_recursive: entries(&blkio.io_merged_recursive),
        io_time_recursive: entries(&blkio.io_time_recursive),
        sectors_recursive: entries(&blkio.sectors_recursive),
        ..Default::default()
    }
}

fn rdma_v1(entry: &v1::RdmaEntry) -> pb1::RdmaEntry {
    pb1::RdmaEntry {
        device: entry.device.clone(),
        hca_handles: entry.hca_handles,
        hca_objects: entry.hca_objects,
        ..Default::default()
    }
}

fn metrics_v2(stats: &v2::Stats) -> pb2::Metrics {
    pb2::Metrics {
        pids: optional(stats.pids.as_ref(), |pids| pb2::PidsStat {
            current: pids.current,
            limit: pids.limit,
            ..Default::default()
        }),
        cpu: optional(stats.cpu.as_ref(), |cpu| {
            let of = |key: &str| cpu.get(key).copied().unwrap_or_default();
            pb2::CPUStat {
                usage_usec: of("usage_usec"),
                user_usec: of("user_usec"),
                system_usec: of("system_usec"),
                nr_periods: of("nr_periods"),
                nr_throttled: of("nr_throttled"),
                throttled_usec: of("throttled_usec"),
                nr_bursts: of("nr_bursts"),
                burst_usec: of("burst_usec"),
                psi: optional(stats.cpu_pressure.as_ref(), pressure),
                ..Default::default()
            }
        }),
        memory: optional(stats.memory.as_ref(), memory_v2),
        rdma: rdma_v2(stats),
        io: optional(stats.io.as_ref(), |entries| pb2::IOStat {
            usage: entries.iter().map(io_v2).collect(),
            psi: optional(stats.io_pressure.as_ref(), pressure),
            ..Default::default()
        }),
        hugetlb: stats.hugetlb.iter().map(hugetlb_v2).collect(),
        memory_events: optional(stats.memory_events.as_ref(), |events| pb2::MemoryEvents {
            low: events.low,
            high: events.high,
            max: events.max,
            oom: events.oom,
            oom_kill: events.oom_kill,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn memory_v2(memory: &v2::MemoryStat) -> pb2::MemoryStat {
    let of = |key: &str| memory.stat.get(key).copied().unwrap_or_default();
    pb2::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        // Since Linux 5.9 counted apart for anonymous and file pages; the Go
        // library takes the old name, which newer kernels do not have.
        workingset_refault: of("workingset_refault"),
        workingset_activate: of("workingset_activate"),
        workingset_nodereclaim: of("workingset_nodereclaim"),
        pgrefill: of("pgrefill"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        pgactivate: of("pgactivate"),
        pgdeactivate: of("pgdeactivate"),
        pglazyfree: of("pglazyfree"),
        pglazyfreed: of("pglazyfreed"),
        thp_fault_alloc: of("thp_fault_alloc"),
        thp_collapse_alloc: of("thp_collapse_alloc"),
        usage: memory.usage,
        usage_limit: memory.usage_limit,
        max_usage: memory.max_usage,
        swap_usage: memory.swap_usage,
        swap_limit: memory.swap_limit,
        swap_max_usage: memory.swap_max_usage,
        psi: optional(memory.pressure.as_ref(), pressure),
        ..Default::default()
    }
}

fn pressure(pressure: &v2::Pressure) -> pb2::PSIStats {
    let line = |line: Option<&v2::PressureLine>| {
        optional(line, |line| pb2::PSIData {
            avg10: f64::from(line.avg10) / 100.0,
            avg60: f64::from(line.avg60) / 100.0,
            avg300: f64::from(line.avg300) / 100.0,
            total: line.total,
            ..Default::default()
        })
    };
    pb2::PSIStats {
        some: line(pressure.some.as_ref()),
        full: line(pressure.full.as_ref()),
        ..Default::default()
    }
}

fn rdma_v2(stats: &v2::Stats) -> MessageField<pb2::RdmaStat> {
    let entry = |entry: &v1::RdmaEntry| pb2::RdmaEntry {
        device: entry.device.clone(),
        hca_handles: entry.hca_handles,
        hca_objects: entry.hca_objects,
        ..Default::default()
    };
    MessageField::some(pb2::RdmaStat {
        current: stats.rdma_current.iter().map(entry).collect(),
        limit: stats.rdma_limit.iter().map(entry).collect(),
        ..Default::default()
    })
}

fn io_v2(entry: &v2::IoEntry) -> pb2::IOEntry {
    pb2::IOEntry {
        major: entry.major,
        minor: entry.minor,
        rbytes: entry.rbytes,
        wbytes: entry.wbytes,
        rios: entry.rios,
        wios: entry.wios,
        ..Default::default()
    }
}

fn hugetlb_v2(stat: &v2::HugetlbStat) -> pb2::HugeTlbStat {
    pb2::HugeTlbStat {
        current: stat.current,
        max: stat.max,
        pagesize: stat.pagesize.clone(),
        failcnt: stat.failcnt,
        ..Default::default()
    }
}

fn optional<T, M>(value: Option<&T>, convert: impl FnOnce(&T) -> M) -> MessageField<M> {
    value.map_or_else(MessageField::none, |value| MessageField::some(convert(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn version_1_is_packed_under_its_own_name() {
        let stat = BTreeMap::from([
            ("pgpgin".to_owned(), 3),
            ("hierarchical_memsw_limit".to_owned(), 4),
            ("total_pgmajfault".to_owned(), 5),
        ]);
        let entry = v1::MemoryEntry { limit: 1, usage: 2, max: 3, failcnt: 4 };
        let memory = v1::MemoryStat { stat, usage: Some(entry), ..Default::default() };
        let stats = v1::Stats {
            pids: Some(v1::PidsStat { current: 7, limit: 9 }),
            memory: Some(memory),
            ..Default::default()
        };
        let any = packed(&Stats::V1(Box::new(stats))).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = pb1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.pids.current, metrics.pids.limit), (7, 9));
        assert_eq!(metrics.memory.pg_pg_in, 3);
        assert_eq!(metrics.memory.hierarchical_swap_limit, 4);
        assert_eq!(metrics.memory.total_pg_maj_fault, 5);
        assert_eq!(metrics.memory.usage.failcnt, 4);
        assert!(metrics.memory.swap.is_none() && metrics.cpu.is_none());
    }

    #[test]
    fn version_2_is_packed_under_its_own_name() {
        let line = v2::PressureLine { avg10: 150, total: 8, ..Default::default() };
        let stats = v2::Stats {
            cpu: Some(BTreeMap::from([("usage_usec".to_owned(), 5)])),
            cpu_pressure: Some(v2::Pressure { some: Some(line), full: None }),
            memory_events: Some(v2::MemoryEvents { oom_kill: 2, ..Default::default() }),
            ..Default::default()
        };
        let any = packed(&Stats::V2(Box::new(stats))).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = pb2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.cpu.usage_usec, 5);
        assert!((metrics.cpu.psi.some.avg10 - 1.5).abs() < f64::EPSILON);
        assert!(metrics.cpu.psi.full.is_none());
        assert_eq!(metrics.memory_events.oom_kill, 2);
    }
}
