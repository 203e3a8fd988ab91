//! Our definitions against those that the independent crates ship: names,
//! numbers and types of fields, values of enums, methods of services.

use std::path::{Path, PathBuf};

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ServiceDescriptor,
};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use crate::{definitions, is_newer};

/// The packages that both define.
const PACKAGES: &[&str] = &["containerd", "io.containerd.cgroups", "runtimeoptions", "google.rpc"];

/// Where Go's import paths begin.
const GO: &str = "github.com/containerd/containerd/api/";

/// Files of a crate, whose imports name some files in two ways.
struct Vendored(PathBuf);

impl FileResolver for Vendored {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let text = std::fs::read_to_string(self.0.join(name))
            .map_err(|_| protox::Error::file_not_found(name))?;
        let text = text
            .replace("import \"types/", &format!("import \"{GO}types/"))
            .replace("import \"runtime/", &format!("import \"{GO}runtime/"));
        File::from_source(name, &text)
    }
}

/// Where cargo has unpacked the dependency `package`, in the version that the
/// lock file names. (`cargo metadata` would want to download what only other
/// platforms need.)
fn source_of(package: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let lock = std::fs::read_to_string(workspace.join("Cargo.lock")).unwrap();
    let entry = format!("name = \"{package}\"\nversion = \"");
    let version = lock.split_once(&entry).and_then(|(_, rest)| rest.split('"').next()).unwrap();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo"))).unwrap();
    let mut places = vec![workspace.join("vendor").join(package)];
    for registry in std::fs::read_dir(home.join("registry/src")).into_iter().flatten() {
        places.push(registry.unwrap().path().join(format!("{package}-{version}")));
    }
    let found = places.iter().find(|place| place.is_dir());
    found.unwrap_or_else(|| panic!("the source of {package} is in none of {places:?}")).clone()
}

/// What `package` defines in `folders`.
fn their_pool(package: &str, folders: &[&str]) -> DescriptorPool {
    let root = source_of(package).join("vendor");
    let mut files = Vec::new();
    for folder in folders {
        collect(&root, &root.join(folder), &mut files);
    }
    assert!(!files.is_empty(), "{package} has no definitions where they were");
    let mut resolver = ChainFileResolver::new();
    resolver.add(GoogleFileResolver::new());
    resolver.add(Vendored(root));
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_files(files).unwrap();
    DescriptorPool::from_file_descriptor_set(compiler.file_descriptor_set()).unwrap()
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path.strip_prefix(root).unwrap().to_owned());
        }
    }
}

fn is_shared(package: &str) -> bool {
    PACKAGES.iter().any(|p| package == *p || package.starts_with(&format!("{p}.")))
}

/// Everything about a field that its name does not say.
fn signature(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(entry) if field.is_map() => format!(
            "map<{:?}, {:?}>",
            entry.map_entry_key_field().kind(),
            entry.map_entry_value_field().kind()
        ),
        Kind::Message(inner) => inner.full_name().to_owned(),
        Kind::Enum(inner) => inner.full_name().to_owned(),
        plain => format!("{plain:?}"),
    };
    let number = field.number();
    format!(
        "{} {kind} = {number} {:?} {}",
        field.name(),
        field.cardinality(),
        field.supports_presence()
    )
}

fn compare_message(peer: &str, their: &MessageDescriptor) {
    let name = their.full_name();
    let ours =
        definitions::pool().get_message_by_name(name).unwrap_or_else(|| panic!("we lack {name}"));
    for field in their.fields() {
        let our = ours
            .get_field(field.number())
            .unwrap_or_else(|| panic!("we lack {}", field.full_name()));
        assert_eq!(signature(&our), signature(&field), "in {name}");
    }
    for field in ours.fields() {
        let known = their.get_field(field.number()).is_some();
        assert!(known || is_newer(peer, &field), "{peer} lacks {}", field.full_name());
    }
}

fn compare_enum(their: &EnumDescriptor) {
    let name = their.full_name();
    let ours =
        definitions::pool().get_enum_by_name(name).unwrap_or_else(|| panic!("we lack {name}"));
    let values = |of: &EnumDescriptor| -> Vec<(i32, String)> {
        let mut list: Vec<_> = of.values().map(|v| (v.number(), v.name().to_owned())).collect();
        list.sort();
        list
    };
    assert_eq!(values(&ours), values(their), "of {name}");
}

fn methods(of: &ServiceDescriptor) -> Vec<String> {
    let mut list: Vec<_> = of
        .methods()
        .map(|m| {
            let (input, output) =
                (m.input().full_name().to_owned(), m.output().full_name().to_owned());
            let (up, down) = (m.is_client_streaming(), m.is_server_streaming());
            format!("{}({input} {up}) {output} {down}", m.name())
        })
        .collect();
    list.sort();
    list
}

fn compare(peer: &str, folders: &[&str]) {
    let theirs = their_pool(peer, folders);
    let mut compared = 0;
    for message in
        theirs.all_messages().filter(|m| is_shared(m.package_name()) && !m.is_map_entry())
    {
        compare_message(peer, &message);
        compared += 1;
    }
    for kind in theirs.all_enums().filter(|e| is_shared(e.package_name())) {
        compare_enum(&kind);
    }
    for service in theirs.services().filter(|s| is_shared(s.package_name())) {
        let name = service.full_name();
        let ours = definitions::pool()
            .get_service_by_name(name)
            .unwrap_or_else(|| panic!("we lack {name}"));
        assert_eq!(methods(&ours), methods(&service), "of {name}");
        compared += 1;
    }
    assert!(compared > 50, "only {compared} definitions of {peer} were compared");
}

#[test]
fn definitions_of_containerd_client() {
    compare("containerd-client", &["github.com/containerd/containerd/api", "google/rpc"]);
}

#[test]
fn definitions_of_containerd_shim_protos() {
    let cgroups = "github.com/containerd/cgroups";
    let folders = [
        "github.com/containerd/containerd/api",
        &format!("{cgroups}/stats/v1"),
        &format!("{cgroups}/cgroup2"),
    ];
    compare("containerd-shim-protos", &folders);
}

/// One set of messages serves both names of the task service.
#[test]
fn task_v2_is_task_v3() {
    let pool = definitions::pool();
    let text = |version: &str| -> Vec<String> {
        let package = format!("containerd.task.{version}");
        let plain = |text: &str| text.replace(&package, "containerd.task");
        let mut lines = Vec::new();
        for message in pool.all_messages().filter(|m| m.package_name() == package) {
            let fields: Vec<_> = message.fields().map(|field| plain(&signature(&field))).collect();
            lines.push(format!("{} {fields:?}", plain(message.full_name())));
        }
        let service = pool.get_service_by_name(&format!("{package}.Task")).unwrap();
        lines.extend(methods(&service).iter().map(|method| plain(method)));
        lines
    };
    assert!(text("v3").len() > 30);
    assert_eq!(text("v2"), text("v3"));
}

/// The two services whose definitions none of the crates ships.
#[test]
fn services_without_a_peer() {
    let of = |name: &str| methods(&definitions::pool().get_service_by_name(name).unwrap());
    let all = |package: &str, list: &[(&str, &str, &str, bool)]| -> Vec<String> {
        let full = |name: &str| match name {
            "Empty" => "google.protobuf.Empty".to_owned(),
            name => format!("{package}.{name}"),
        };
        let line = |(name, input, output, down): &(&str, &str, &str, bool)| {
            format!("{name}({} false) {} {down}", full(input), full(output))
        };
        list.iter().map(line).collect()
    };
    assert_eq!(
        of("containerd.services.mounts.v1.Mounts"),
        all(
            "containerd.services.mounts.v1",
            &[
                ("Activate", "ActivateRequest", "ActivateResponse", false),
                ("Deactivate", "DeactivateRequest", "Empty", false),
                ("Info", "InfoRequest", "InfoResponse", false),
                ("List", "ListRequest", "ListMessage", true),
                ("Update", "UpdateRequest", "UpdateResponse", false),
            ]
        )
    );
    assert_eq!(
        of("grpc.health.v1.Health"),
        all(
            "grpc.health.v1",
            &[
                ("Check", "HealthCheckRequest", "HealthCheckResponse", false),
                ("Watch", "HealthCheckRequest", "HealthCheckResponse", true),
            ]
        )
    );
}
