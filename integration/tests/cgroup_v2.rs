//! cgroup v2, in a virtual machine: limits, metrics, freezing, OOM and
//! clean-up by davitd, our shim, runc and crun.

use davit_integration::{image, vm};

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
    for i in $(seq 100); do grep -q "/tasks/oom.*oom-$runtime" /root/events && break; sleep 0.1; done
    echo "$runtime oom: $(grep -c "/tasks/oom.*oom-$runtime" /root/events)"
    order=$(grep "oom-$runtime" /root/events | grep -o '/tasks/[a-z]*' | tr '\n' ' ')
    echo "$runtime order: $order"
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
    for left in ["tasks left: 0", "cgroups left: 0", "mounts left: 0", "shims left: 0"] {
        assert!(text.contains(left), "no {left:?} in\n{text}");
    }
}
