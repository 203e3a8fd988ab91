//! cgroup v2, in a virtual machine: limits, metrics, freezing, OOM and
//! clean-up by davitd, our shim, runc and crun.

use std::collections::BTreeMap;

use davit_integration::{image, vm};
use serde_json::Value;

const SCRIPT: &str = r#"
set -e
cd /root
davitd --root /var/lib/davit --state /run/davit --address /run/davit/davit.sock >/root/log 2>&1 &
for i in $(seq 300); do [ -S /run/davit/davit.sock ] && break; sleep 0.1; done
export CONTAINERD_ADDRESS=/run/davit/davit.sock CONTAINERD_NAMESPACE=vm
fail() { echo "FAILED: $1"; tail -n 40 /root/log; exit 1; }
ctr image import /root/image.tar >/dev/null || fail import
ctr events >/root/events &

for runtime in runc crun; do
    name=c-$runtime
    echo "$runtime output: $(ctr run --rm --runc-binary $runtime IMAGE out-$runtime echo hello)"
    ctr run -d --runc-binary $runtime --memory-limit 33554432 IMAGE $name sleep 1000 || fail run
    ctr task metrics $name >/root/metrics || fail metrics
    value() { awk -v name=$1 '$1 == name { print $2 }' /root/metrics; }
    echo "$runtime metrics: $(value memory.usage_limit) $(value pids.current)"
    ctr task pause $name
    echo "$runtime frozen: $(grep -h frozen /sys/fs/cgroup/vm/$name/cgroup.events)"
    ctr task resume $name
    echo "$runtime exec: $(ctr task exec --exec-id e $name cat /proc/self/cgroup)"
    ctr task kill -s KILL $name
    for i in $(seq 100); do ctr task ls | grep $name | grep -q STOPPED && break; sleep 0.1; done
    ctr task rm $name 2>/dev/null || true
    ctr container rm $name

    # Reads more into memory than it may have.
    ctr run --rm --runc-binary $runtime --memory-limit 16777216 IMAGE oom-$runtime \
        sh -c 'yes | tail -n 100000000 >/dev/null; exit $?' >/dev/null 2>&1 || true
    told() { grep -q "/tasks/$1.*oom-$runtime" /root/events; }
    for i in $(seq 100); do told oom && told exit && break; sleep 0.1; done
    echo "$runtime oom: $(grep -c "/tasks/oom.*oom-$runtime" /root/events)"
    order=$(grep "oom-$runtime" /root/events | grep -o '/tasks/[a-z]*' | tr '\n' ' ')
    echo "$runtime order: $order"
done
# The same container by our shim and by Go's: what each says of it.
for shim in runc go; do
    ctr run -d --runtime io.containerd.$shim.v2 --memory-limit 33554432 IMAGE m-$shim \
        sh -c 'dd if=/dev/zero of=/file bs=64k count=128 2>/dev/null; exec sleep 1000' || fail $shim
done
sleep 2 # lets both come to rest
for shim in runc go; do
    echo "metrics of $shim:"
    ctr task metrics --format json m-$shim || fail "metrics of $shim"
    echo "end of metrics"
done
for shim in runc go; do
    ctr task rm -f m-$shim >/dev/null 2>&1 || fail "task rm m-$shim"
    ctr container rm m-$shim
done
echo "tasks left: $(ctr task ls -q | wc -l)"
echo "cgroups left: $(find /sys/fs/cgroup/vm -mindepth 1 -type d 2>/dev/null | wc -l)"
echo "mounts left: $(grep -c /run/davit/io /proc/self/mounts || true)"
echo "shims left: $(ps | grep -c '[c]ontainerd-shim' || true)"
"#;

#[test]
fn runc_and_crun_on_cgroup_v2() {
    let text = vm::run(&SCRIPT.replace("IMAGE", image::NAME));
    for runtime in ["runc", "crun"] {
        let says = |line: String| assert!(text.contains(&line), "no {line:?} in\n{text}");
        says(format!("{runtime} output: hello\n"));
        says(format!("{runtime} metrics: 33554432 1\n"));
        says(format!("{runtime} frozen: frozen 1\n"));
        says(format!("{runtime} exec: 0::/"));
        let oom = format!("{runtime} oom: ");
        let count = text.split_once(&oom).and_then(|(_, rest)| rest.split_whitespace().next());
        assert!(count.is_some_and(|n| n.parse().is_ok_and(|n: u32| n >= 1)), "{text}");
        let order = format!("{runtime} order: ");
        let order = text.lines().find_map(|line| line.strip_prefix(&order)).expect("a line");
        let place = |topic: &str| order.split(' ').position(|word| word == topic);
        assert!(place("/tasks/oom") < place("/tasks/exit"), "OOM after the exit: {order}");
    }
    same_metrics(&metrics(&text, "runc"), &metrics(&text, "go"));
    for left in ["tasks left: 0", "cgroups left: 0", "mounts left: 0", "shims left: 0"] {
        assert!(text.contains(left), "no {left:?} in\n{text}");
    }
}

/// The metrics that one of the shims gave, field by field.
fn metrics(text: &str, shim: &str) -> BTreeMap<String, Value> {
    let (_, rest) = text.split_once(&format!("metrics of {shim}:\n")).expect("they were printed");
    let (json, _) = rest.split_once("end of metrics").expect("they end");
    let mut fields = BTreeMap::new();
    flatten(&serde_json::from_str(json).expect("ctr prints JSON"), "", &mut fields);
    fields
}

fn flatten(value: &Value, at: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, inner)| flatten(inner, &format!("{at}.{name}"), into));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(n, inner)| flatten(inner, &format!("{at}[{n}]"), into));
        }
        _ => {
            into.insert(at.to_owned(), value.clone());
        }
    }
}

/// What the kernel counts differs between two containers that do the same, by
/// less than this: bytes or events.
const SLACK: u64 = 1 << 20;
/// The same for microseconds: how long a processor takes for it is for others
/// to say, too.
const SLACK_USEC: u64 = 30_000_000;

/// Both have the same fields with the same values, but for what the kernel
/// counts. A count of 0 is left out by Go.
fn same_metrics(ours: &BTreeMap<String, Value>, theirs: &BTreeMap<String, Value>) {
    let told = || format!("ours: {ours:#?}\ntheirs: {theirs:#?}");
    assert!(theirs.len() > 20, "{}", told());
    let zero = Value::from(0);
    for field in ours.keys().chain(theirs.keys()) {
        let [our, their] = [ours, theirs].map(|all| all.get(field).unwrap_or(&zero));
        let set = ["limit", "current", "hugetlb"].iter().any(|word| field.contains(word));
        match (our.as_u64(), their.as_u64()) {
            (Some(our), Some(their)) if !set => {
                let slack = if field.ends_with("_usec") { SLACK_USEC } else { SLACK };
                assert!(our.abs_diff(their) < slack, "{field}: {our} and {their}\n{}", told());
            }
            _ => assert_eq!(our, their, "{field}\n{}", told()),
        }
    }
    for metrics in [ours, theirs] {
        assert!(metrics[".cpu.usage_usec"].as_u64().is_some_and(|time| time > 0), "{}", told());
    }
    // What the container has written is among its memory.
    assert!(ours[".memory.file"].as_u64().is_some_and(|size| size > 4 * SLACK), "{}", told());
}
