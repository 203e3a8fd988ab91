//! Configuration files, as people have them and as they get them wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use davit_daemon::config::{Config, migrate};

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn load(text: &str) -> (Config, Vec<String>) {
    Config::load(&Files::new().write("config.toml", text)).unwrap()
}

fn refusal(text: &str) -> String {
    let error = Config::load(&Files::new().write("config.toml", text)).unwrap_err().to_string();
    error.split_once("config.toml:").map(|(_, rest)| rest.to_owned()).unwrap_or(error)
}

/// What containerd 1.6, installed beside us, has by default.
fn containerd_default() -> String {
    let output = Command::new("containerd").args(["config", "default"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn containerds_own_default_is_accepted_and_what_does_not_apply_is_named() {
    let (config, warnings) = load(&containerd_default());
    assert_eq!(config.root, Path::new("/var/lib/containerd"));
    assert_eq!(config.state, Path::new("/run/containerd"));
    assert_eq!(config.grpc.address, Path::new("/run/containerd/containerd.sock"));
    assert_eq!(config.grpc.max_recv_message_size, 16 << 20);
    assert_eq!(config.timeouts, Config::default().timeouts);
    assert_eq!(config.plugins, Config::default().plugins);
    assert_eq!(config.stream_processors.len(), 2);
    let named: Vec<&str> =
        warnings.iter().map(|warning| warning.split_once(": ").unwrap().1).collect();
    for expected in [
        "version 2 of the format is read as version 3; `davitd config migrate` prints it as such",
        "plugins.\"io.containerd.grpc.v1.cri\" does not apply and is ignored",
        "plugins.\"io.containerd.runtime.v1.linux\" does not apply and is ignored",
    ] {
        assert!(named.contains(&expected), "{expected:?} is not in {named:#?}");
    }
    // Settings without a value ask for nothing, and no warning is given.
    assert!(!named.iter().any(|warning| warning.contains("aufs") || warning.contains("cgroup")));
}

/// What containerd 2.1 has by default, out of the tree of newer peers.
fn newer_default() -> String {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/forky");
    let tree = std::env::var_os("DAVIT_FORKY").map_or_else(default, PathBuf::from);
    let program = tree.join("peers/containerd");
    assert!(program.exists(), "{} is missing: run `make test-setup` first", program.display());
    let output = Command::new(program).args(["config", "default"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_default_of_the_newer_containerd_is_accepted_too() {
    let text = newer_default();
    assert!(text.starts_with("version = 3\n"), "{text}");
    let (mut config, warnings) = load(&text);
    assert_eq!(config.root, Path::new("/var/lib/containerd"));
    assert_eq!(config.state, Path::new("/run/containerd"));
    assert_eq!(config.timeouts, Config::default().timeouts);
    assert_eq!(config.stream_processors.len(), 2);
    let migrated = migrate(&Files::new().write("config.toml", &text)).unwrap();
    assert_eq!(load(&migrated).0, config);
    config.complete().unwrap();
    let named: Vec<&str> =
        warnings.iter().map(|warning| warning.split_once(": ").unwrap().1).collect();
    for expected in [
        "plugins.\"io.containerd.cri.v1.images\" does not apply and is ignored",
        "plugins.\"io.containerd.cri.v1.runtime\" does not apply and is ignored",
        "plugins.\"io.containerd.nri.v1.nri\" does not apply and is ignored",
    ] {
        assert!(named.contains(&expected), "{expected:?} is not in {named:#?}");
    }
}

#[test]
fn our_default_is_complete_and_reads_back_as_itself() {
    let text = Config::default().to_toml();
    let (config, warnings) = load(&text);
    assert_eq!(config, Config::default());
    assert_eq!(warnings, [] as [&str; 0]);
    assert!(text.starts_with("version = 3\nroot = \"/var/lib/davit\"\nstate = \"/run/davit\"\n"));
}

#[test]
fn every_setting_that_applies_is_applied_and_printed() {
    let (mut config, warnings) = load(
        r#"
        version = 3
        root = "/data"
        state = "/state"
        oom_score = -999
        disabled_plugins = ["io.containerd.snapshotter.v1.native"]
        required_plugins = ["io.containerd.grpc.v1.tasks"]
        [grpc]
          address = "/state/api.sock"
          uid = 1000
          gid = 998
          max_recv_message_size = 1048576
          max_send_message_size = 2097152
        [ttrpc]
          address = "/state/shims.sock"
          uid = 7
          gid = 8
        [debug]
          level = "debug"
          format = "json"
        [timeouts]
          "io.containerd.timeout.shim.cleanup" = "10s"
          "io.containerd.timeout.shim.load" = "1m"
          "io.containerd.timeout.shim.shutdown" = "500ms"
          "io.containerd.timeout.task.state" = "1.5s"
        [plugins."io.containerd.metadata.v1.bolt"]
          content_sharing_policy = "isolated"
        [plugins."io.containerd.monitor.container.v1.restart"]
          interval = "3s"
        [plugins."io.containerd.shim.v1.manager"]
          env = ["A=b"]
        [plugins."io.containerd.runtime.v2.task"]
          sched_core = true
        [plugins."io.containerd.snapshotter.v1.native"]
          root_path = "/native"
        [plugins."io.containerd.snapshotter.v1.overlayfs"]
          root_path = "/overlay"
          upperdir_label = true
          slow_chown = true
          mount_options = ["index=off"]
        "#,
    );
    assert_eq!(warnings, [] as [&str; 0]);
    assert_eq!(config.oom_score, -999);
    assert_eq!((config.grpc.uid, config.grpc.gid), (1000, 998));
    assert_eq!(config.timeouts.shim_shutdown, Duration::from_millis(500));
    assert_eq!(config.plugins.bolt.content_sharing_policy, "isolated");
    assert_eq!(config.plugins.restart.interval, Duration::from_secs(3));
    assert_eq!(config.plugins.shim.env, ["SCHED_CORE=1", "A=b"]);
    assert_eq!(config.plugins.overlayfs.mount_options, ["index=off"]);
    assert!(!config.enabled("io.containerd.snapshotter.v1.native"));
    let (again, warnings) = load(&config.to_toml());
    assert_eq!(warnings, [] as [&str; 0]);
    config.complete().unwrap();
    let mut again = again;
    again.complete().unwrap();
    assert_eq!(again, config);
    assert_eq!(config.ttrpc.address, Path::new("/state/shims.sock"));
}

#[test]
fn parts_in_other_programs_are_read_and_named() {
    let (config, warnings) = load(
        r#"
        version = 3
        [proxy_plugins.lazy]
          type = "snapshot"
          address = "/run/lazy.sock"
          [proxy_plugins.lazy.exports]
            root = "/var/lib/lazy"
        [stream_processors.decrypt]
          accepts = ["a+encrypted"]
          returns = "a"
          path = "decoder"
          args = ["-k"]
          env = ["K=v"]
        "#,
    );
    assert_eq!(config.proxy_plugins["lazy"].kind, "snapshot");
    assert_eq!(config.proxy_plugins["lazy"].exports["root"], "/var/lib/lazy");
    assert_eq!(config.stream_processors["decrypt"].args, ["-k"]);
    assert_eq!(warnings, Vec::<String>::new());
    let (again, _) = load(&config.to_toml());
    assert_eq!(again, config);
}

#[test]
fn parts_in_other_programs_must_be_possible() {
    let proxy = "version = 3\n[proxy_plugins.a]\naddress = \"/a\"\n";
    for (text, expected) in [
        ("", "proxy_plugins.a.type: is missing; one of snapshot, io.containerd.snapshotter.v1,"),
        ("type = \"image\"", "4:8: proxy_plugins.a.type: \"image\" is not one of snapshot,"),
        (
            "type = \"diff\"\nplatform = \"linux/*\"",
            "5:12: proxy_plugins.a.platform: \"linux/*\": wildcards not yet supported",
        ),
        (
            "type = \"diff\"\n[proxy_plugins.overlayfs]\ntype = \"snapshot\"\naddress = \"/o\"",
            "proxy_plugins.overlayfs: the daemon has one of that name itself",
        ),
    ] {
        let refused = refusal(&format!("{proxy}{text}\n"));
        assert!(refused.contains(expected), "{text}: {refused}");
    }
    let (config, warnings) = load(
        "version = 3\n[proxy_plugins.a]\ntype = \"io.containerd.differ.v1\"\naddress = \"/a\"\n\
         [plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"a\", \"walking\"]\n",
    );
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.proxy_plugins["a"].kind, "diff");
    assert_eq!(config.plugins.diff.default, ["a", "walking"]);
    let (mut config, _) = load(
        "version = 3\n[plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"b\"]\n",
    );
    let error = config.complete().unwrap_err().to_string();
    let expected = ".default: no differ \"b\"; there is \"walking\", and what proxy_plugins names";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn there_is_one_content_store() {
    let proxy =
        |name: &str| format!("[proxy_plugins.{name}]\ntype = \"content\"\naddress = \"/{name}\"\n");
    let complete = |disabled: &str, proxies: &str| {
        let (mut config, warnings) =
            load(&format!("version = 3\ndisabled_plugins = [{disabled}]\n{proxies}"));
        assert_eq!(warnings, Vec::<String>::new());
        config.complete().map_err(|error| error.to_string())
    };
    let own = "\"io.containerd.content.v1.content\"";
    assert_eq!(complete("", ""), Ok(()));
    assert_eq!(complete(own, &proxy("a")), Ok(()));
    assert_eq!(complete("\"io.containerd.content.v1.a\"", &proxy("a")), Ok(()));
    let none = complete(own, "").unwrap_err();
    assert!(none.contains("there is no content store"), "{none}");
    let two = complete("", &proxy("a")).unwrap_err();
    let names = "io.containerd.content.v1.content and io.containerd.content.v1.a are enabled";
    assert!(two.contains(names), "{two}");
    let two = complete(own, &(proxy("a") + &proxy("b"))).unwrap_err();
    assert!(two.contains("content.v1.a and io.containerd.content.v1.b"), "{two}");
}

#[test]
fn what_is_wrong_is_refused_with_its_line() {
    for (text, expected) in [
        ("version = 5", "1:11: version: 5 is not between 0 and 4"),
        ("version = 3\nroot = 1", "2:8: root: expected a string, found integer"),
        ("version = 3\nroot = \"/a\nstate = 1", "2:"),
        ("version = 3\noom_score = 2000", "2:13: oom_score: 2000 is not between -1000 and 1000"),
        (
            "version = 2\ndisabled_plugins = [\"cri\"]",
            "2:20: disabled_plugins: invalid disabled plugin URI \"cri\" expect io.containerd.x.vx",
        ),
        ("version = 3\n[grpc]\nuid = -1", "3:7: grpc.uid: -1 is not between 0 and 4294967294"),
        (
            "version = 3\n[debug]\nlevel = \"loud\"",
            "3:9: debug.level: \"loud\" is not one of trace, debug, info, warn, error, fatal, panic",
        ),
        (
            "version = 3\n[timeouts]\n\"io.containerd.timeout.shim.load\" = \"soon\"",
            "3:37: timeouts.\"io.containerd.timeout.shim.load\": \"soon\": \
             not a length of time such as \"1m30s\"",
        ),
        (
            "version = 3\n[plugins.\"io.containerd.metadata.v1.bolt\"]\ncontent_sharing_policy = \"x\"",
            "3:26: plugins.\"io.containerd.metadata.v1.bolt\".content_sharing_policy: \
             \"x\" is not one of shared, isolated",
        ),
        ("version = 3\nplugins = 3", "2:11: plugins: expected a table, found integer"),
    ] {
        let error = refusal(text);
        assert!(error.starts_with(expected), "{text:?}\n  gave {error:?}\n  not  {expected:?}");
    }
}

#[test]
fn what_does_not_apply_is_named_with_file_line_and_key() {
    let files = Files::new();
    let path = files.write(
        "config.toml",
        "version = 3\ntmep = \"/x\"\n[grpc]\n  tcp_address = \"127.0.0.1:1\"\n[metrics]\n  address = \"\"\n\
         [debug]\n  address = \"/d.sock\"\n[plugins.'io.containerd.nri.v1.nri']\n  disable = true\n",
    );
    let (_, warnings) = Config::load(&path).unwrap();
    let at = |line: u32, key: &str| {
        format!("{}:{line}: {key} does not apply and is ignored", path.display())
    };
    assert_eq!(
        warnings,
        [
            at(4, "grpc.tcp_address"),
            at(8, "debug.address"),
            at(9, "plugins.\"io.containerd.nri.v1.nri\""),
            at(2, "tmep"),
        ]
    );
}

#[test]
fn imports_add_to_lists_and_override_the_rest_except_with_nothing() {
    let files = Files::new();
    let main = files.write(
        "config.toml",
        "version = 3\nroot = \"/one\"\nimports = [\"conf.d/*.toml\", \"last.toml\", \"config.toml\"]\n\
         disabled_plugins = [\"a.b\"]\n[debug]\nlevel = \"warn\"\n",
    );
    files.write(
        "conf.d/1.toml",
        "version = 3\nroot = \"/two\"\ndisabled_plugins = [\"c.d\", \"a.b\"]\n",
    );
    files.write("conf.d/2.toml", "version = 2\nroot = \"\"\n[debug]\nlevel = \"error\"\n");
    files.write("conf.d/not-me.conf", "version = 9\n");
    files.write("last.toml", "version = 3\nstate = \"/last\"\n");
    let (config, _) = Config::load(&main).unwrap();
    assert_eq!(config.root, Path::new("/two"));
    assert_eq!(config.state, Path::new("/last"));
    assert_eq!(config.debug.level, "error");
    assert_eq!(config.disabled_plugins, ["a.b", "c.d"]);
}

#[test]
fn an_import_that_is_missing_or_later_is_refused() {
    let files = Files::new();
    let main = files.write("config.toml", "version = 2\nimports = [\"more.toml\"]\n");
    let error = Config::load(&main).unwrap_err().to_string();
    assert!(error.ends_with("more.toml"), "{error}");
    files.write("more.toml", "version = 3\n");
    let error = Config::load(&main).unwrap_err().to_string();
    let expected = "version: drop-in config version 3 higher than root config version 2";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_file_without_a_version_has_short_plugin_names() {
    let (config, _) = load(
        "disabled_plugins = [\"cri\", \"restart\"]\n[plugins.bolt]\ncontent_sharing_policy = \"isolated\"\n",
    );
    assert_eq!(
        config.disabled_plugins,
        ["io.containerd.grpc.v1.cri", "io.containerd.monitor.container.v1.restart"]
    );
    assert_eq!(config.plugins.bolt.content_sharing_policy, "isolated");
}

#[test]
fn version_4_has_the_sockets_in_plugins() {
    let (config, warnings) = load(
        "version = 4\n[plugins.'io.containerd.server.v1.grpc']\naddress = \"/a\"\ngid = 5\n\
         [plugins.'io.containerd.server.v1.ttrpc']\naddress = \"/b\"\n",
    );
    assert_eq!((config.grpc.address, config.grpc.gid), ("/a".into(), 5));
    assert_eq!(config.ttrpc.address, Path::new("/b"));
    assert_eq!(warnings, [] as [&str; 0]);
}

#[test]
fn paths_are_completed_and_checked() {
    let mut config = Config::default();
    config.root = "rel".into();
    config.complete().unwrap();
    assert!(config.root.is_absolute());
    assert_eq!(config.ttrpc.address, Path::new("/run/davit/davit.sock.ttrpc"));
    assert_eq!(
        config.plugins.native.root_path,
        config.root.join("io.containerd.snapshotter.v1.native")
    );
    let mut config = Config::default();
    config.root = config.state.clone();
    let error = config.complete().unwrap_err().to_string();
    assert_eq!(error, "root and state must be different paths");
    let mut config = Config::default();
    config.grpc.address = "".into();
    assert_eq!(config.complete().unwrap_err().to_string(), "grpc address must be specified");
}

#[test]
fn migrating_keeps_everything_and_means_the_same() {
    let files = Files::new();
    let old = files.write("old.toml", &containerd_default());
    let new = files.write("new.toml", &migrate(&old).unwrap());
    assert_eq!(Config::load(&new).unwrap().0, Config::load(&old).unwrap().0);
    let table: toml::Table = std::fs::read_to_string(&new).unwrap().parse().unwrap();
    assert_eq!(table["version"].as_integer(), Some(3));
    let plugins = table["plugins"].as_table().unwrap();
    let restart = &plugins["io.containerd.monitor.container.v1.restart"];
    assert_eq!(restart["interval"].as_str(), Some("10s"));
    let images = &plugins["io.containerd.cri.v1.images"];
    assert_eq!(images["snapshotter"].as_str(), Some("overlayfs"));
    assert!(images["pinned_images"]["sandbox"].as_str().unwrap().ends_with("/pause:3.6"));
    let runtime = &plugins["io.containerd.cri.v1.runtime"];
    assert_eq!(runtime["containerd"]["default_runtime_name"].as_str(), Some("runc"));
    assert!(runtime["containerd"].get("snapshotter").is_none());
    let streaming = &plugins["io.containerd.grpc.v1.cri"];
    assert_eq!(streaming["stream_server_address"].as_str(), Some("127.0.0.1"));
    // Nothing got lost on the way.
    let count = |text: &str| text.lines().filter(|line| line.contains('=')).count();
    let text = std::fs::read_to_string(&new).unwrap();
    assert_eq!(count(&text), count(&containerd_default()), "{text}");
}

#[test]
fn images_on_their_way_have_settings() {
    let (config, warnings) = load(
        r#"version = 3
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_downloads = 7
  max_concurrent_uploaded_layers = 0
  max_concurrent_unpacks = 2
  concurrent_layer_fetch_buffer = 8388608
  check_platform_supported = true
  config_path = "/a:/b"
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/arm64"
    snapshotter = "native"
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux(+erofs)/amd64"
    snapshotter = "erofs"
    differ = "walking"
    optional = true
[plugins."io.containerd.image-verifier.v1.bindir"]
  bin_dir = "/verifiers"
  max_verifiers = -1
  per_verifier_timeout = "1m0s"
"#,
    );
    assert_eq!(warnings, Vec::<String>::new());
    let transfer = &config.plugins.transfer;
    assert_eq!(transfer.max_concurrent_downloads, 7);
    assert_eq!(transfer.max_concurrent_uploaded_layers, 0);
    assert_eq!(transfer.max_concurrent_unpacks, 2);
    assert_eq!(transfer.concurrent_layer_fetch_buffer, 8 << 20);
    assert!(transfer.check_platform_supported);
    let unpacks: Vec<String> = transfer
        .unpacks()
        .iter()
        .map(|unpack| {
            format!("{} {} {}", unpack.platform.to_full_string(), unpack.snapshotter, unpack.differ)
        })
        .collect();
    assert_eq!(unpacks, ["linux/arm64 native ", "linux(+erofs)/amd64 erofs walking"]);
    assert_eq!(config.plugins.registry_directories(), [Path::new("/a"), Path::new("/b")]);
    let verifier = &config.plugins.image_verifier;
    assert_eq!(verifier.bin_dir, Path::new("/verifiers"));
    assert_eq!(
        (verifier.max_verifiers, verifier.per_verifier_timeout),
        (-1, Duration::from_secs(60))
    );
    assert_eq!(verifier.verifiers().limit, None);
    assert_eq!(Config::default().plugins.image_verifier.verifiers().limit, Some(10));
    // What is printed is read again as the same.
    assert_eq!(load(&config.to_toml()), (config, Vec::new()));
}

#[test]
fn registries_are_where_transfers_or_the_cri_plugin_look() {
    for (text, directories) in [
        ("", &[][..]),
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/old\"",
            &["/old"],
        ),
        (
            "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \":/c:/d\"",
            &["/c", "/d"],
        ),
        (
            "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/c\"\n\
             [plugins.\"io.containerd.transfer.v1.local\"]\nconfig_path = \"/t\"",
            &["/t"],
        ),
    ] {
        let (config, _) = load(text);
        let wanted: Vec<&Path> = directories.iter().map(Path::new).collect();
        assert_eq!(config.plugins.registry_directories(), wanted, "{text}");
    }
    let (config, _) = load("");
    let here = &config.plugins.transfer.unpacks()[0];
    assert_eq!((here.platform.os.as_str(), here.snapshotter.as_str()), ("linux", "overlayfs"));
    let none = "version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\nunpack_config = []";
    assert_eq!(load(none).0.plugins.transfer.unpacks(), []);
}

#[test]
fn wrong_settings_of_images_are_refused_with_their_place() {
    let transfer = "version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\n";
    let unpack = "version = 3\n[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n";
    let verifier = "version = 3\n[plugins.\"io.containerd.image-verifier.v1.bindir\"]\n";
    for (begin, text, message) in [
        (
            transfer,
            "max_concurrent_downloads = -1",
            "3:28: plugins.\"io.containerd.transfer.v1.local\".max_concurrent_downloads: -1 is not between",
        ),
        (
            transfer,
            "config_path = 1",
            "3:15: plugins.\"io.containerd.transfer.v1.local\".config_path: expected a string",
        ),
        (
            transfer,
            "unpack_config = 1",
            "3:17: plugins.\"io.containerd.transfer.v1.local\".unpack_config: expected an array of tables",
        ),
        (
            transfer,
            "unpack_config = [1]",
            "3:18: plugins.\"io.containerd.transfer.v1.local\".unpack_config: expected a table",
        ),
        (
            unpack,
            "platform = \"pdp11\"\nsnapshotter = \"x\"",
            "3:12: plugins.\"io.containerd.transfer.v1.local\".unpack_config.platform: \"pdp11\": unknown operating system",
        ),
        (unpack, "platform = \"linux\"", "unpack_config.snapshotter: must be specified"),
        (
            unpack,
            "platform = \"linux\"\nsnapshotter = \"x\"\ndifer = \"y\"",
            "5:9: plugins.\"io.containerd.transfer.v1.local\".unpack_config.difer: no such setting",
        ),
        (
            verifier,
            "per_verifier_timeout = \"soon\"",
            "3:24: plugins.\"io.containerd.image-verifier.v1.bindir\".per_verifier_timeout: \"soon\": not a length of time",
        ),
    ] {
        let refused = refusal(&format!("{begin}{text}\n"));
        assert!(refused.contains(message), "{text}: {refused}");
    }
}
