//! systemd's cgroups, in a virtual machine: containers in scopes of systemd's
//! making by runc and by crun, and davitd as a service from our unit.

use davit_integration::{image, vm};

const SCRIPT: &str = r#"
export CONTAINERD_ADDRESS=/run/davit/davit.sock CONTAINERD_NAMESPACE=vm
fail() { echo "FAILED: $1"; SYSTEMD_COLORS=0 journalctl --no-pager -n 40 -u davit; exit 1; }
# Waits for a condition, for a minute.
until_true() { for i in $(seq 600); do eval "$1" && return; sleep 0.1; done; fail "never: $1"; }
# One property of a unit.
property() { systemctl show -P $2 $1; }
scopes() { systemctl list-units --all --plain --no-legend 'davit-*.scope' | wc -l; }

# The call returns when davitd says that it is ready.
systemctl start davit || fail start
[ -S /run/davit/davit.sock ] || fail "ready without a socket"
echo "service: $(property davit Type) $(property davit ActiveState) $(property davit SubState)"
ctr image import /root/image.tar >/dev/null || fail import
ctr events >/root/events &

run() { # RUNTIME NAME ARGUMENTS...
    runtime=$1; name=$2; shift 2
    ctr run -d --runc-binary $runtime --runc-systemd-cgroup --cgroup vm.slice:davit:$name \
        --memory-limit 33554432 IMAGE $name "$@" || fail "run $name"
}
# What a container that has ended may leave behind.
gone() { # NAME
    until_true "[ \$(property davit-$1.scope ActiveState) = inactive ]"
    echo "$1 left: $(property davit-$1.scope LoadState) $(ls -d /sys/fs/cgroup/vm.slice/davit-$1.scope 2>/dev/null | wc -l)"
}
pid() { ctr task ls | awk -v name=$1 '$1 == name { print $2 }'; }
status() { ctr task ls | awk -v name=$1 '$1 == name { print $3 }'; }

for runtime in runc crun; do
    name=c-$runtime
    run $runtime $name sleep 1000
    scope=davit-$name.scope
    cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$(pid $name)/cgroup)
    echo "$runtime scope: $(property $scope ActiveState) $(property $scope Slice) $(property $scope ControlGroup)"
    echo "$runtime cgroup: ${cgroup#/sys/fs/cgroup} $(cat $cgroup/memory.max)"
    ctr task metrics $name >/root/metrics || fail metrics
    value() { awk -v name=$1 '$1 == name { print $2 }' /root/metrics; }
    echo "$runtime metrics: $(value memory.usage_limit) $(value pids.current)"
    ctr task pause $name || fail pause
    echo "$runtime frozen: $(grep -h frozen $cgroup/cgroup.events) $(status $name)"
    ctr task resume $name || fail resume
    echo "$runtime thawed: $(grep -h frozen $cgroup/cgroup.events) $(status $name)"
    ctr task exec --exec-id e $name sleep 999 &
    until_true "for p in \$(cat $cgroup/cgroup.procs); do tr '\\0' ' ' </proc/\$p/cmdline; done | grep -q 'sleep 999'"
    echo "$runtime exec: $(wc -l <$cgroup/cgroup.procs)"
    ctr task kill -s KILL $name || fail kill
    wait $!
    until_true "[ \$(status $name) = STOPPED ]"
    ctr task rm $name >/dev/null 2>&1
    ctr container rm $name || fail "rm $name"
    gone $name

    # Reads more into memory than it may have, and is survived: systemd takes the group, and
    # the count of kills with it, from a container that ends.
    run $runtime oom-$runtime sh -c 'dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1000'
    until_true "grep -q '/tasks/oom.*oom-$runtime' /root/events"
    ctr task kill -s KILL oom-$runtime || fail "kill oom-$runtime"
    until_true "grep -q '/tasks/exit.*oom-$runtime' /root/events"
    echo "$runtime oom: $(grep "oom-$runtime" /root/events | grep -o '/tasks/[a-z]*' | uniq | tr '\n' ' ')"
    ctr task rm oom-$runtime >/dev/null 2>&1
    ctr container rm oom-$runtime || fail "rm oom-$runtime"
    gone oom-$runtime

    # The shim dies and cannot clean up; the daemon has its binary do it.
    run $runtime dead-$runtime sleep 1000
    container=$(pid dead-$runtime)
    kill -9 $(awk '$1 == "PPid:" { print $2 }' /proc/$container/status)
    until_true "[ -z \"\$(status dead-$runtime)\" ]"
    until_true "[ ! -e /proc/$container ]"
    until_true "grep -q '/tasks/delete.*dead-$runtime' /root/events"
    echo "$runtime dead: $(grep "dead-$runtime" /root/events | grep -o '/tasks/[a-z]*' | tr '\n' ' ')"
    ctr container rm dead-$runtime || fail "rm dead-$runtime"
    gone dead-$runtime

    run $runtime stays-$runtime sleep 1000
done

pids() { echo $(pid stays-runc) $(pid stays-crun); }
until_true "pids | grep -vqw 0"
before=$(pids)
daemon=$(property davit MainPID)
systemctl restart davit || fail restart
# A list does not wait for a shim that is slow to answer, and has no pid for it then.
until_true "[ \"\$(pids)\" = \"$before\" ]"
echo "containers as before: $(echo $before | wc -w)"
echo "another daemon: $([ $daemon != $(property davit MainPID) ] && echo yes || echo no)"
for runtime in runc crun; do
    name=stays-$runtime
    echo "$name: $(status $name) $(property davit-$name.scope ActiveState) $(ctr task exec --exec-id e $name echo hello)"
    ctr task kill -s KILL $name || fail "kill $name"
    until_true "[ \$(status $name) = STOPPED ]"
    ctr task rm $name >/dev/null 2>&1
    ctr container rm $name || fail "rm $name"
    gone $name
done
systemctl stop davit || fail stop
echo "stopped: $(property davit ActiveState) $(property davit Result) $(property davit ExecMainStatus)"
echo "scopes left: $(scopes)"
echo "shims left: $(ps | grep -c '[c]ontainerd-shim')"
echo "mounts left: $(grep -c /run/davit/io /proc/self/mounts)"
"#;

#[test]
fn scopes_of_runc_and_crun_and_the_service_itself() {
    let text = vm::run_under_systemd(&SCRIPT.replace("IMAGE", image::NAME));
    let says = |line: String| {
        assert!(text.lines().any(|said| said == line), "no {line:?} in\n{text}");
    };
    // crun puts the container into a group of its own below the scope.
    for (runtime, below) in [("runc", ""), ("crun", "/container")] {
        let scope = format!("/vm.slice/davit-c-{runtime}.scope");
        says(format!("{runtime} scope: active vm.slice {scope}"));
        says(format!("{runtime} cgroup: {scope}{below} 33554432"));
        says(format!("{runtime} metrics: 33554432 1"));
        says(format!("{runtime} frozen: frozen 1 PAUSED"));
        says(format!("{runtime} thawed: frozen 0 RUNNING"));
        says(format!("{runtime} exec: 2"));
        says(format!("{runtime} oom: /tasks/create /tasks/start /tasks/oom /tasks/exit "));
        says(format!("{runtime} dead: /tasks/create /tasks/start /tasks/exit /tasks/delete "));
        says(format!("stays-{runtime}: RUNNING active hello"));
        for name in ["c", "oom", "dead", "stays"] {
            says(format!("{name}-{runtime} left: not-found 0"));
        }
    }
    for line in [
        "service: notify active running",
        "containers as before: 2",
        "another daemon: yes",
        "stopped: inactive success 0",
        "scopes left: 0",
        "shims left: 0",
        "mounts left: 0",
    ] {
        says(line.into());
    }
}
