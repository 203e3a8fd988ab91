//! `--format json` of the commands that do something and say to what.

use davit_integration::registry::Registry;
use davit_integration::{image, wait_for};
use serde_json::{Value, json};

use crate::seat::{IMAGE, Seat};

#[test]
fn what_happens_to_images_is_told_as_json() {
    let (seat, registry) = (Seat::new(), Registry::start());
    assert_eq!(seat.json(&["tag", IMAGE, "mine:2"]), json!([{"image": "mine:2"}]));
    let archive = seat.daemon.path("out.tar").to_string_lossy().into_owned();
    let both = json!([{"image": image::NAME}, {"image": "mine:2"}]);
    assert_eq!(seat.json(&["export", "-o", &archive, IMAGE, "mine:2"]), both);
    assert_eq!(seat.json(&["rmi", image::NAME, "mine:2"]), both);
    let mut imported = seat.json(&["import", &archive]);
    let names = imported.as_array_mut().expect("a list");
    names.sort_by_key(|name| name["image"] != image::NAME);
    assert_eq!(imported, both);

    let name = registry.reference("some/image:1");
    let pushed = seat.json(&["push", IMAGE, &name]);
    let row = &pushed[0];
    assert_eq!(row["digest"], *registry.digest("some/image:1"), "{pushed}");
    assert!(row["image"].is_string() && row["mediaType"].is_string(), "{pushed}");
    assert!(row["size"].as_u64().is_some_and(|size| size > 0), "{pushed}");

    // What does not work is told on standard error, and what does as before.
    let output = seat.davit(&["--format", "json", "rmi", "none:1", "mine:2"]).output();
    let output = output.expect("davit can be started");
    assert_eq!(output.status.code(), Some(125));
    let done: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(done, json!([{"image": "mine:2"}]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("none:1"));
}

#[test]
fn what_happens_to_containers_is_told_as_json() {
    let seat = Seat::new();
    let done = json!([{"container": "a"}]);
    assert_eq!(seat.json(&["run", "-d", "--name", "a", IMAGE, "sleep", "1000"]), done);
    let exec = seat.json(&["exec", "-d", "a", "touch", "/made"]);
    assert_eq!(exec["container"], "a", "{exec}");
    assert!(exec["exec"].as_str().is_some_and(|id| !id.is_empty()), "{exec}");
    wait_for("the exec", 20, || {
        let found = seat.davit(&["exec", "a", "test", "-e", "/made"]).status();
        found.expect("davit can be started").success().then_some(())
    });
    assert_eq!(seat.json(&["kill", "a"]), done);
    seat.wait_status("a", "exited");
    assert_eq!(seat.json(&["start", "a"]), done);
    seat.wait_status("a", "running");
    assert_eq!(seat.json(&["stop", "-t", "0", "a"]), done);
    let row = &seat.json(&["ps", "-a"])[0];
    assert_eq!((&row["name"], &row["exitCode"]), (&"a".into(), &137.into()));
    let output = seat.davit(&["--format", "json", "stop", "a", "none"]).output();
    let output = output.expect("davit can be started");
    assert_eq!(output.status.code(), Some(125));
    let stopped: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert!(stopped.is_array(), "{stopped}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("none"));
    assert_eq!(seat.json(&["rm", "a"]), done);
    seat.nothing_left();
}
