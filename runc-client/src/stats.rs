//! Events and statistics in runc's JSON form (`types/events.go` of runc 1.1 to
//! 1.3), which crun's and runsc's follow. Controllers that are missing, and
//! fields that one cgroup version lacks, are zero or empty.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer};

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The statistics at the end of an interval.
    Stats(Box<Stats>),
    /// A process was killed because memory ran out.
    Oom,
    /// Another type.
    Other {
        /// Its name.
        kind: String,
        /// Its data.
        data: serde_json::Value,
    },
}

/// An event as it is on the wire.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: serde_json::Value,
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Envelope { kind, data } = Envelope::deserialize(deserializer)?;
        Ok(match kind.as_str() {
            "stats" => {
                Self::Stats(Box::new(Stats::deserialize(data).map_err(serde::de::Error::custom)?))
            }
            "oom" => Self::Oom,
            _ => Self::Other { kind, data },
        })
    }
}

/// Reads a value that may be `null` as its default: Go prints empty lists so.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$field_doc])* #[serde(deserialize_with = "nullable")] pub $field: $kind,)*
        }
    };
}

record! {
    /// What a container's cgroup tells.
    Stats {
        /// Processor time.
        cpu: Cpu,
        /// Memory.
        memory: Memory,
        /// Processes.
        pids: Pids,
        /// Block devices.
        blkio: Blkio,
        /// Huge pages, by page size (`2MB`).
        hugetlb: HashMap<String, HugeTlb>,
        /// Network interfaces, where the runtime looks.
        network_interfaces: Vec<NetworkInterface>,
        /// The `cpuset` object, as it stands.
        cpuset: serde_json::Value,
        /// The `intel_rdt` object, as it stands.
        intel_rdt: serde_json::Value,
    }
}
record! {
    /// Processor time.
    Cpu {
        /// Time used.
        usage: CpuUsage,
        /// Time taken away by a quota.
        throttling: Throttling,
        /// Pressure (cgroup v2).
        psi: Option<Psi>,
    }
}
record! {
    /// Processor time used, in nanoseconds.
    CpuUsage {
        /// All of it.
        total: u64,
        /// By processor (cgroup v1).
        percpu: Vec<u64>,
        /// In the kernel, by processor (cgroup v1).
        percpu_kernel: Vec<u64>,
        /// In user mode, by processor (cgroup v1).
        percpu_user: Vec<u64>,
        /// In the kernel.
        kernel: u64,
        /// In user mode.
        user: u64,
    }
}
record! {
    /// Time taken away by a quota.
    Throttling {
        /// Periods that have elapsed.
        periods: u64,
        /// Periods in which the quota was used up.
        #[serde(rename = "throttledPeriods")]
        throttled_periods: u64,
        /// Nanoseconds throttled.
        #[serde(rename = "throttledTime")]
        throttled_time: u64,
    }
}
record! {
    /// Memory, in bytes.
    Memory {
        /// Page cache.
        cache: u64,
        /// Memory.
        usage: MemoryEntry,
        /// Memory and swap (cgroup v1), swap (cgroup v2).
        swap: MemoryEntry,
        /// Kernel memory (cgroup v1).
        kernel: MemoryEntry,
        /// TCP buffers (cgroup v1).
        #[serde(rename = "kernelTCP")]
        kernel_tcp: MemoryEntry,
        /// `memory.stat`.
        raw: HashMap<String, u64>,
        /// Pressure (cgroup v2).
        psi: Option<Psi>,
    }
}
record! {
    /// One counter of memory, in bytes.
    MemoryEntry {
        /// The limit.
        limit: u64,
        /// Used now.
        usage: u64,
        /// The most that was used.
        max: u64,
        /// How often the limit was hit.
        failcnt: u64,
    }
}
record! {
    /// Processes.
    Pids {
        /// Their number.
        current: u64,
        /// How many there may be; 0 for no limit.
        limit: u64,
    }
}
record! {
    /// Block devices.
    Blkio {
        /// Bytes.
        #[serde(rename = "ioServiceBytesRecursive")]
        service_bytes: Vec<BlkioEntry>,
        /// Operations.
        #[serde(rename = "ioServicedRecursive")]
        serviced: Vec<BlkioEntry>,
        /// Operations queued.
        #[serde(rename = "ioQueueRecursive")]
        queued: Vec<BlkioEntry>,
        /// Service time, in nanoseconds.
        #[serde(rename = "ioServiceTimeRecursive")]
        service_time: Vec<BlkioEntry>,
        /// Waiting time, in nanoseconds.
        #[serde(rename = "ioWaitTimeRecursive")]
        wait_time: Vec<BlkioEntry>,
        /// Operations merged.
        #[serde(rename = "ioMergedRecursive")]
        merged: Vec<BlkioEntry>,
        /// Time, in milliseconds.
        #[serde(rename = "ioTimeRecursive")]
        time: Vec<BlkioEntry>,
        /// Sectors.
        #[serde(rename = "sectorsRecursive")]
        sectors: Vec<BlkioEntry>,
        /// Pressure (cgroup v2).
        psi: Option<Psi>,
    }
}
record! {
    /// One counter of one block device.
    BlkioEntry {
        /// The device's major number.
        major: u64,
        /// The device's minor number.
        minor: u64,
        /// Which operation (`Read`, `Write`, ...).
        op: String,
        /// The count.
        value: u64,
    }
}
record! {
    /// Huge pages of one size, in bytes.
    HugeTlb {
        /// Used now.
        usage: u64,
        /// The most that was used.
        max: u64,
        /// How often the limit was hit.
        failcnt: u64,
    }
}
record! {
    /// Traffic of one network interface.
    NetworkInterface {
        /// Its name.
        #[serde(rename = "Name")]
        name: String,
        /// Bytes received.
        #[serde(rename = "RxBytes")]
        rx_bytes: u64,
        /// Packets received.
        #[serde(rename = "RxPackets")]
        rx_packets: u64,
        /// Receive errors.
        #[serde(rename = "RxErrors")]
        rx_errors: u64,
        /// Packets dropped on receipt.
        #[serde(rename = "RxDropped")]
        rx_dropped: u64,
        /// Bytes sent.
        #[serde(rename = "TxBytes")]
        tx_bytes: u64,
        /// Packets sent.
        #[serde(rename = "TxPackets")]
        tx_packets: u64,
        /// Send errors.
        #[serde(rename = "TxErrors")]
        tx_errors: u64,
        /// Packets dropped on sending.
        #[serde(rename = "TxDropped")]
        tx_dropped: u64,
    }
}
record! {
    /// Pressure stall information.
    Psi {
        /// Some tasks were stalled.
        some: PsiData,
        /// All tasks were stalled.
        full: PsiData,
    }
}
record! {
    /// One line of pressure stall information.
    PsiData {
        /// Per cent of the last 10 s.
        avg10: f64,
        /// Per cent of the last 60 s.
        avg60: f64,
        /// Per cent of the last 300 s.
        avg300: f64,
        /// Microseconds altogether.
        total: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As runc 1.1 prints it on cgroup v1, shortened.
    const V1: &str = r#"{"type":"stats","id":"a1","data":{
        "cpu":{"usage":{"total":23242245,"percpu":[8653187,14589058],
            "percpu_kernel":[11993710,3957184],"percpu_user":[0,4000000],
            "kernel":10000000,"user":0},"throttling":{"throttledTime":7}},
        "cpuset":{"cpus":[0,1],"cpu_exclusive":0},
        "memory":{"usage":{"limit":9223372036854771712,"usage":425984,"max":2781184,"failcnt":0},
            "swap":{"limit":1,"failcnt":2},"kernel":{"limit":3,"failcnt":0},
            "kernelTCP":{"limit":4,"failcnt":0},"raw":{"active_anon":0,"cache":5}},
        "pids":{"current":1},
        "blkio":{"ioServiceBytesRecursive":[{"major":254,"op":"Read","value":6}]},
        "hugetlb":{"2MB":{"failcnt":8}},"intel_rdt":{},"network_interfaces":null}}"#;

    /// As runc 1.3 prints it on cgroup v2, shortened.
    const V2: &str = r#"{"type":"stats","id":"a1","data":{
        "cpu":{"usage":{"total":1,"kernel":2,"user":3},"throttling":{},
            "psi":{"some":{"avg10":0.5,"avg60":0,"avg300":0,"total":9},
                   "full":{"avg10":0,"avg60":0,"avg300":0,"total":4}}},
        "cpuset":{},"memory":{"usage":{"limit":18446744073709551615,"usage":2,"failcnt":0},
            "swap":{"limit":0,"failcnt":0},"raw":{"anon":1},"event_count":{"oom_kill":1}},
        "pids":{"current":1,"limit":100},"blkio":{},"hugetlb":null,"intel_rdt":{},
        "network_interfaces":[{"Name":"eth0","RxBytes":1,"TxDropped":2}]}}"#;

    fn stats(text: &str) -> Stats {
        match serde_json::from_str(text).unwrap() {
            Event::Stats(stats) => *stats,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_both_cgroup_versions() {
        let v1 = stats(V1);
        assert_eq!(v1.cpu.usage.percpu, [8653187, 14589058]);
        assert_eq!(v1.cpu.throttling.throttled_time, 7);
        assert_eq!(v1.memory.usage.limit, 9223372036854771712);
        assert_eq!((v1.memory.kernel_tcp.limit, v1.memory.raw["cache"]), (4, 5));
        let read = BlkioEntry { major: 254, minor: 0, op: "Read".into(), value: 6 };
        assert_eq!(v1.blkio.service_bytes, [read]);
        assert_eq!(v1.hugetlb["2MB"].failcnt, 8);
        let v2 = stats(V2);
        assert_eq!(v2.memory.usage.limit, u64::MAX);
        assert_eq!(v2.pids, Pids { current: 1, limit: 100 });
        assert_eq!(v2.cpu.psi.unwrap().some.total, 9);
        assert_eq!(v2.network_interfaces[0].name, "eth0");
        assert_eq!(v2.network_interfaces[0].tx_dropped, 2);
    }

    #[test]
    fn reads_other_events() {
        let read = |text| serde_json::from_str::<Event>(text);
        assert_eq!(read(r#"{"type":"oom","id":"a"}"#).unwrap(), Event::Oom);
        let Event::Other { kind, data } = read(r#"{"type":"new","id":"a","data":[1]}"#).unwrap()
        else {
            panic!("not another event");
        };
        assert_eq!((&*kind, data), ("new", serde_json::json!([1])));
        assert!(read(r#"{"type":"stats","id":"a","data":{"pids":{"current":-1}}}"#).is_err());
        assert!(read(r#"{"id":"a"}"#).is_err());
    }
}
