//! Every message that we generate, by hand so that leaving one out is an error
//! ([`crate::nothing_is_left_out`]).

use davit_protocols::{grpc, ttrpc};

use crate::codec::{Codec, lite, prost};

/// The gRPC side.
#[rustfmt::skip]
pub fn grpc() -> Vec<Codec> {
    let mut list = Vec::new();
    prost!(list, grpc::containerd::events, [
        ContentCreate, ContentDelete, SnapshotPrepare, SnapshotCommit, SnapshotRemove,
        SandboxCreate, SandboxStart, SandboxExit, ContainerCreate,
        container_create::Runtime, ContainerUpdate, ContainerDelete, NamespaceCreate,
        NamespaceUpdate, NamespaceDelete, TaskCreate, TaskStart, TaskDelete, TaskIo,
        TaskExit, TaskOom, TaskExecAdded, TaskExecStarted, TaskPaused, TaskResumed,
        TaskCheckpointed,
    ]);
    prost!(list, grpc::containerd::runc::v1, [Options, CheckpointOptions, ProcessDetails]);
    prost!(list, grpc::containerd::runtime::bootstrap::v1, [
        BootstrapParams, Extension, BootstrapResult,
    ]);
    prost!(list, grpc::containerd::services::containers::v1, [
        Container, container::Runtime, GetContainerRequest, GetContainerResponse,
        ListContainersRequest, ListContainersResponse, CreateContainerRequest,
        CreateContainerResponse, UpdateContainerRequest, UpdateContainerResponse,
        DeleteContainerRequest, ListContainerMessage,
    ]);
    prost!(list, grpc::containerd::services::content::v1, [
        Info, InfoRequest, InfoResponse, UpdateRequest, UpdateResponse, ListContentRequest,
        ListContentResponse, DeleteContentRequest, ReadContentRequest, ReadContentResponse,
        Status, StatusRequest, StatusResponse, ListStatusesRequest, ListStatusesResponse,
        WriteContentRequest, WriteContentResponse, AbortRequest,
    ]);
    prost!(list, grpc::containerd::services::diff::v1, [
        ApplyRequest, ApplyResponse, DiffRequest, DiffResponse,
    ]);
    prost!(list, grpc::containerd::services::events::v1, [
        PublishRequest, ForwardRequest, SubscribeRequest,
    ]);
    prost!(list, grpc::containerd::services::images::v1, [
        ImageCreate, ImageUpdate, ImageDelete, Image, GetImageRequest, GetImageResponse,
        CreateImageRequest, CreateImageResponse, UpdateImageRequest, UpdateImageResponse,
        ListImagesRequest, ListImagesResponse, DeleteImageRequest,
    ]);
    prost!(list, grpc::containerd::services::introspection::v1, [
        Plugin, PluginsRequest, PluginsResponse, ServerResponse, DeprecationWarning,
        PluginInfoRequest, PluginInfoResponse,
    ]);
    prost!(list, grpc::containerd::services::leases::v1, [
        Lease, CreateRequest, CreateResponse, DeleteRequest, ListRequest, ListResponse,
        Resource, AddResourceRequest, DeleteResourceRequest, ListResourcesRequest,
        ListResourcesResponse,
    ]);
    prost!(list, grpc::containerd::services::mounts::v1, [
        ActivateRequest, ActivateResponse, DeactivateRequest, InfoRequest, InfoResponse,
        UpdateRequest, UpdateResponse, ListRequest, ListMessage,
    ]);
    prost!(list, grpc::containerd::services::namespaces::v1, [
        Namespace, GetNamespaceRequest, GetNamespaceResponse, ListNamespacesRequest,
        ListNamespacesResponse, CreateNamespaceRequest, CreateNamespaceResponse,
        UpdateNamespaceRequest, UpdateNamespaceResponse, DeleteNamespaceRequest,
    ]);
    prost!(list, grpc::containerd::services::sandbox::v1, [
        StoreCreateRequest, StoreCreateResponse, StoreUpdateRequest, StoreUpdateResponse,
        StoreDeleteRequest, StoreDeleteResponse, StoreListRequest, StoreListResponse,
        StoreGetRequest, StoreGetResponse, ControllerCreateRequest,
        ControllerCreateResponse, ControllerStartRequest, ControllerStartResponse,
        ControllerPlatformRequest, ControllerPlatformResponse, ControllerStopRequest,
        ControllerStopResponse, ControllerWaitRequest, ControllerWaitResponse,
        ControllerStatusRequest, ControllerStatusResponse, ControllerShutdownRequest,
        ControllerShutdownResponse, ControllerMetricsRequest, ControllerMetricsResponse,
        ControllerUpdateRequest, ControllerUpdateResponse,
    ]);
    prost!(list, grpc::containerd::services::snapshots::v1, [
        PrepareSnapshotRequest, PrepareSnapshotResponse, ViewSnapshotRequest,
        ViewSnapshotResponse, MountsRequest, MountsResponse, RemoveSnapshotRequest,
        CommitSnapshotRequest, StatSnapshotRequest, Info, StatSnapshotResponse,
        UpdateSnapshotRequest, UpdateSnapshotResponse, ListSnapshotsRequest,
        ListSnapshotsResponse, UsageRequest, UsageResponse, CleanupRequest,
    ]);
    prost!(list, grpc::containerd::services::streaming::v1, [StreamInit]);
    prost!(list, grpc::containerd::services::tasks::v1, [
        CreateTaskRequest, CreateTaskResponse, StartRequest, StartResponse,
        DeleteTaskRequest, DeleteResponse, DeleteProcessRequest, GetRequest, GetResponse,
        ListTasksRequest, ListTasksResponse, KillRequest, ExecProcessRequest,
        ExecProcessResponse, ResizePtyRequest, CloseIoRequest, PauseTaskRequest,
        ResumeTaskRequest, ListPidsRequest, ListPidsResponse, CheckpointTaskRequest,
        CheckpointTaskResponse, UpdateTaskRequest, MetricsRequest, MetricsResponse,
        WaitRequest, WaitResponse,
    ]);
    prost!(list, grpc::containerd::services::transfer::v1, [TransferRequest, TransferOptions]);
    prost!(list, grpc::containerd::services::version::v1, [VersionResponse]);
    prost!(list, grpc::containerd::types, [
        Platform, Envelope, Sandbox, sandbox::Runtime, Metric, Mount, ActiveMount,
        ActivationInfo, RuntimeRequest, RuntimeVersion, RuntimeInfo, Descriptor,
    ]);
    prost!(list, grpc::containerd::types::transfer, [
        OciRegistry, RegistryResolver, AuthRequest, AuthResponse, Data, WindowUpdate,
        Progress, ImageStore, UnpackConfiguration, ImageReference, ImageImportStream,
        ImageExportStream,
    ]);
    prost!(list, grpc::containerd::v1::types, [Process, ProcessInfo]);
    prost!(list, grpc::google::rpc, [Status]);
    prost!(list, grpc::grpc::health::v1, [HealthCheckRequest, HealthCheckResponse]);
    prost!(list, grpc::io::containerd::cgroups::v1, [
        Metrics, HugetlbStat, PidsStat, CpuStat, CpuUsage, Throttle, MemoryStat,
        MemoryEntry, MemoryOomControl, BlkIoStat, BlkIoEntry, RdmaStat, RdmaEntry,
        NetworkStat, CgroupStats,
    ]);
    prost!(list, grpc::io::containerd::cgroups::v2, [
        Metrics, PsiData, PsiStats, PidsStat, CpuStat, MemoryStat, MemoryEvents, RdmaStat,
        RdmaEntry, IoStat, IoEntry, HugeTlbStat, NetworkStat,
    ]);
    prost!(list, grpc::runtimeoptions::v1, [Options]);
    list
}

/// The ttrpc side.
#[rustfmt::skip]
pub fn ttrpc() -> Vec<Codec> {
    let mut list = Vec::new();
    lite!(list, ttrpc::bootstrap, [BootstrapParams, Extension, BootstrapResult]);
    lite!(list, ttrpc::events, [
        ContentCreate, ContentDelete, SnapshotPrepare, SnapshotCommit, SnapshotRemove,
        SandboxCreate, SandboxStart, SandboxExit, ContainerCreate, ContainerUpdate,
        ContainerDelete, NamespaceCreate, NamespaceUpdate, NamespaceDelete, TaskCreate,
        TaskStart, TaskDelete, TaskIO, TaskExit, TaskOOM, TaskExecAdded, TaskExecStarted,
        TaskPaused, TaskResumed, TaskCheckpointed,
    ]);
    lite!(list, ttrpc::events_service, [ForwardRequest]);
    lite!(list, ttrpc::image_events, [ImageCreate, ImageUpdate, ImageDelete]);
    lite!(list, ttrpc::metrics::v1, [
        Metrics, HugetlbStat, PidsStat, CPUStat, CPUUsage, Throttle, MemoryStat,
        MemoryEntry, MemoryOomControl, BlkIOStat, BlkIOEntry, RdmaStat, RdmaEntry,
        NetworkStat, CgroupStats,
    ]);
    lite!(list, ttrpc::metrics::v2, [
        Metrics, PSIData, PSIStats, PidsStat, CPUStat, MemoryStat, MemoryEvents, RdmaStat,
        RdmaEntry, IOStat, IOEntry, HugeTlbStat, NetworkStat,
    ]);
    lite!(list, ttrpc::options, [Options, CheckpointOptions, ProcessDetails]);
    lite!(list, ttrpc::process, [Process, ProcessInfo]);
    lite!(list, ttrpc::runtimeoptions, [Options]);
    lite!(list, ttrpc::sandbox, [
        CreateSandboxRequest, CreateSandboxResponse, StartSandboxRequest,
        StartSandboxResponse, PlatformRequest, PlatformResponse, StopSandboxRequest,
        StopSandboxResponse, UpdateSandboxRequest, WaitSandboxRequest, WaitSandboxResponse,
        UpdateSandboxResponse, SandboxStatusRequest, SandboxStatusResponse, PingRequest,
        PingResponse, ShutdownSandboxRequest, ShutdownSandboxResponse,
        SandboxMetricsRequest, SandboxMetricsResponse,
    ]);
    lite!(list, ttrpc::task, [
        CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse,
        ExecProcessRequest, ExecProcessResponse, ResizePtyRequest, StateRequest,
        StateResponse, KillRequest, CloseIORequest, PidsRequest, PidsResponse,
        CheckpointTaskRequest, UpdateTaskRequest, StartRequest, StartResponse, WaitRequest,
        WaitResponse, StatsRequest, StatsResponse, ConnectRequest, ConnectResponse,
        ShutdownRequest, PauseRequest, ResumeRequest,
    ]);
    lite!(list, ttrpc::types, [
        Platform, Envelope, Sandbox, Metric, Mount, ActiveMount, ActivationInfo,
        RuntimeRequest, RuntimeVersion, RuntimeInfo, Descriptor,
    ]);
    list
}
