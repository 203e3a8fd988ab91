//! Checkpoint and restore by CRIU, in a virtual machine: this one's kernel may
//! be newer than CRIU knows.

use davit_integration::{image, vm};

const SCRIPT: &str = r#"
cd /root
davitd --root /var/lib/davit --state /run/davit --address /run/davit/davit.sock >/root/log 2>&1 &
for i in $(seq 300); do [ -S /run/davit/davit.sock ] && break; sleep 0.1; done
export CONTAINERD_ADDRESS=/run/davit/davit.sock CONTAINERD_NAMESPACE=vm
fail() { echo "FAILED: $1"; tail -n 40 /root/log /run/davit/*/vm/*/criu-dump.log; exit 1; }
criu check 2>/dev/null || fail "criu does not work here"
ctr image import /root/image.tar >/dev/null || fail import

# Counts in its memory. Its streams are FIFOs that nobody in it sees. The file
# is whole at any moment.
COUNT='n=0; while :; do n=$((n+1)); echo $n | tee /new; mv /new /count; sleep 0.1; done'
ctr run -d --net-host IMAGE counter sh -c "$COUNT" || fail run
for i in $(seq 100); do
    [ "$(ctr task exec --exec-id e$i counter cat /count)" -gt 1 ] 2>/dev/null && break
    sleep 0.1
done
ctr container checkpoint --rw --image --task counter point || fail checkpoint
ctr task exec --exec-id after counter true || fail "it does not run on"
ctr task pause counter
echo "saved: $(ctr snapshot ls >/dev/null; cat /run/davit/*/vm/counter/rootfs/count)"
ctr task kill -s KILL counter; ctr task resume counter 2>/dev/null
for i in $(seq 100); do ctr task ls | grep counter | grep -q STOPPED && break; sleep 0.1; done
ctr task rm counter 2>/dev/null
ctr container rm counter || fail rm

ctr container restore --live --rw again point || fail restore
echo "restored: $(ctr task exec --exec-id e again cat /count)"
sleep 1
echo "later: $(ctr task exec --exec-id f again cat /count)"
ctr task kill -s KILL again
for i in $(seq 100); do ctr task ls | grep again | grep -q STOPPED && break; sleep 0.1; done
ctr task rm again 2>/dev/null
ctr container rm again || fail rm
echo "tasks left: $(ctr task ls -q | wc -l)"
"#;

#[test]
fn a_task_is_checkpointed_and_goes_on_where_it_was() {
    let text = vm::run(&SCRIPT.replace("IMAGE", image::NAME));
    let number = |name: &str| -> u32 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    };
    assert!(number("saved") > 0, "{text}");
    assert!(number("restored") > 1, "it began anew\n{text}");
    assert!(number("later") > number("restored"), "it does not count on\n{text}");
    assert_eq!(number("tasks left"), 0, "{text}");
}
