//! Operations that only look.

use std::time::Duration;

use runc_client::{Error, ErrorKind, Event};

use crate::common::{Bed, DEADLINE};

pub async fn version_and_features(bed: &Bed) {
    let version = bed.runc.version().await.unwrap();
    assert_eq!(version.name, bed.name);
    assert!(version.version.starts_with(|c: char| c.is_ascii_digit()), "{version:?}");
    assert!(version.spec.is_some());
    match bed.runc.features().await {
        Ok(features) => {
            assert!(features.hooks.iter().any(|hook| hook == "poststop"));
            assert!(features.mount_options.iter().any(|option| option == "rbind"));
            assert!(features.linux["namespaces"].is_array());
            let json: serde_json::Value = serde_json::from_slice(&features.json).unwrap();
            assert_eq!(json["ociVersionMin"], features.oci_version_min);
        }
        Err(error) => {
            assert!(!bed.is("runc"), "{error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }
}

pub async fn list_and_ps(bed: &Bed) {
    assert!(bed.runc.list().await.unwrap().is_empty());
    let first = bed.running().await;
    let second = bed.running().await;
    let mut ids: Vec<_> =
        bed.runc.list().await.unwrap().into_iter().map(|state| state.id).collect();
    ids.sort();
    assert_eq!(ids, [first.clone(), second.clone()]);
    let pids = bed.runc.ps(&first).await.unwrap();
    let table = bed.runc.ps_table(&first, &[]).await.unwrap();
    let column: Vec<_> =
        table.column("PID").iter().map(|pid| pid.parse::<u32>().unwrap()).collect();
    assert_eq!(pids, column);
    if bed.is("runsc") {
        assert_eq!(pids.len(), 1);
    } else {
        assert_eq!(pids, [bed.runc.state(&first).await.unwrap().pid]);
    }
    bed.remove(&first).await;
    bed.remove(&second).await;
    assert!(bed.runc.list().await.unwrap().is_empty());
}

pub async fn statistics_and_events(bed: &Bed) {
    let id = bed.running().await;
    let seconds = if bed.is("runsc") { 5.0 } else { 0.05 };
    let events = || bed.runc.events(&id, Duration::from_secs_f32(seconds)).unwrap();
    if bed.is("crun") {
        let error = bed.runc.stats(&id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let mut events = events();
        let error = events.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(events.next().await.is_none());
        return bed.remove(&id).await;
    }
    // A runtime written in Go has threads until its process has become the container's.
    let alone = async {
        loop {
            let stats = bed.runc.stats(&id).await.unwrap();
            if stats.pids.current == 1 {
                return stats;
            }
        }
    };
    let stats = tokio::time::timeout(DEADLINE, alone).await.expect("one process");
    assert!(stats.memory.usage.usage > 0);
    assert!(stats.cpu.usage.total > 0);
    let mut events = events();
    for _ in 0..if bed.is("runsc") { 1 } else { 3 } {
        let event = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(event, Event::Stats(stats) if stats.pids.current == 1));
    }
    bed.remove(&id).await;
    let end = async {
        // runsc ends with an error when its sandbox is gone.
        while let Some(event) = events.next().await {
            let gone = matches!(event.as_ref().map_err(Error::kind), Err(ErrorKind::NotFound));
            assert!(bed.is("runsc") || event.is_ok() || gone, "{event:?}");
        }
    };
    if !bed.is("runsc") {
        tokio::time::timeout(DEADLINE, end).await.expect("the events end with the container");
    }
}
