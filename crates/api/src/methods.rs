//! The methods that are registered, by their paths.
//!
//! A method is registered when its service is served at all; one of them that is not there yet is refused by name. Calls
//! to services that are not in this table get gRPC's own answer for an unknown service.

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One and one.
    Unary,
    /// One, and many back.
    ServerStream,
    /// Many each way.
    BidiStream,
}

impl Kind {
    /// As the label `grpc_type` says it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

macro_rules! methods {
    ($($variant:ident = $service:literal $name:literal $kind:ident;)*) => {
        /// A registered method.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Method {
            $(
                #[doc = concat!("`/", $service, "/", $name, "`")]
                $variant,
            )*
        }

        impl Method {
            /// Every one, in the order of their numbers.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The method at a path.
            pub(crate) fn at(path: &str) -> Option<Self> {
                match path {
                    $(concat!("/", $service, "/", $name) => Some(Self::$variant),)*
                    _ => None,
                }
            }

            pub(crate) fn service(self) -> &'static str {
                match self {
                    $(Self::$variant => $service,)*
                }
            }

            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            pub(crate) fn kind(self) -> Kind {
                match self {
                    $(Self::$variant => Kind::$kind,)*
                }
            }
        }
    };
}

methods! {
    Range = "etcdserverpb.KV" "Range" Unary;
    Put = "etcdserverpb.KV" "Put" Unary;
    Txn = "etcdserverpb.KV" "Txn" Unary;
    DeleteRange = "etcdserverpb.KV" "DeleteRange" Unary;
    Compact = "etcdserverpb.KV" "Compact" Unary;
    RangeStream = "etcdserverpb.KV" "RangeStream" ServerStream;
    Watch = "etcdserverpb.Watch" "Watch" BidiStream;
    Lock = "v3lockpb.Lock" "Lock" Unary;
    Unlock = "v3lockpb.Lock" "Unlock" Unary;
    Campaign = "v3electionpb.Election" "Campaign" Unary;
    Proclaim = "v3electionpb.Election" "Proclaim" Unary;
    Leader = "v3electionpb.Election" "Leader" Unary;
    Observe = "v3electionpb.Election" "Observe" ServerStream;
    Resign = "v3electionpb.Election" "Resign" Unary;
    LeaseGrant = "etcdserverpb.Lease" "LeaseGrant" Unary;
    LeaseRevoke = "etcdserverpb.Lease" "LeaseRevoke" Unary;
    LeaseKeepAlive = "etcdserverpb.Lease" "LeaseKeepAlive" BidiStream;
    LeaseTimeToLive = "etcdserverpb.Lease" "LeaseTimeToLive" Unary;
    LeaseLeases = "etcdserverpb.Lease" "LeaseLeases" Unary;
    MemberAdd = "etcdserverpb.Cluster" "MemberAdd" Unary;
    MemberRemove = "etcdserverpb.Cluster" "MemberRemove" Unary;
    MemberUpdate = "etcdserverpb.Cluster" "MemberUpdate" Unary;
    MemberList = "etcdserverpb.Cluster" "MemberList" Unary;
    MemberPromote = "etcdserverpb.Cluster" "MemberPromote" Unary;
    Alarm = "etcdserverpb.Maintenance" "Alarm" Unary;
    Status = "etcdserverpb.Maintenance" "Status" Unary;
    Defragment = "etcdserverpb.Maintenance" "Defragment" Unary;
    Hash = "etcdserverpb.Maintenance" "Hash" Unary;
    HashKv = "etcdserverpb.Maintenance" "HashKV" Unary;
    Snapshot = "etcdserverpb.Maintenance" "Snapshot" ServerStream;
    MoveLeader = "etcdserverpb.Maintenance" "MoveLeader" Unary;
    Downgrade = "etcdserverpb.Maintenance" "Downgrade" Unary;
    AuthEnable = "etcdserverpb.Auth" "AuthEnable" Unary;
    AuthDisable = "etcdserverpb.Auth" "AuthDisable" Unary;
    AuthStatus = "etcdserverpb.Auth" "AuthStatus" Unary;
    Authenticate = "etcdserverpb.Auth" "Authenticate" Unary;
    UserAdd = "etcdserverpb.Auth" "UserAdd" Unary;
    UserGet = "etcdserverpb.Auth" "UserGet" Unary;
    UserList = "etcdserverpb.Auth" "UserList" Unary;
    UserDelete = "etcdserverpb.Auth" "UserDelete" Unary;
    UserChangePassword = "etcdserverpb.Auth" "UserChangePassword" Unary;
    UserGrantRole = "etcdserverpb.Auth" "UserGrantRole" Unary;
    UserRevokeRole = "etcdserverpb.Auth" "UserRevokeRole" Unary;
    RoleAdd = "etcdserverpb.Auth" "RoleAdd" Unary;
    RoleGet = "etcdserverpb.Auth" "RoleGet" Unary;
    RoleList = "etcdserverpb.Auth" "RoleList" Unary;
    RoleDelete = "etcdserverpb.Auth" "RoleDelete" Unary;
    RoleGrantPermission = "etcdserverpb.Auth" "RoleGrantPermission" Unary;
    RoleRevokePermission = "etcdserverpb.Auth" "RoleRevokePermission" Unary;
    HealthCheck = "grpc.health.v1.Health" "Check" Unary;
    HealthList = "grpc.health.v1.Health" "List" Unary;
    HealthWatch = "grpc.health.v1.Health" "Watch" ServerStream;
}

/// What to call a path that is not in the table: grpc-go's words.
pub(crate) fn unknown(path: &str) -> String {
    let Some((service, method)) = path.strip_prefix('/').and_then(|p| p.rsplit_once('/')) else {
        return format!("malformed method name: {path:?}");
    };
    if Method::ALL.iter().any(|m| m.service() == service) {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_at_its_path_and_at_its_number() {
        for (number, &method) in Method::ALL.iter().enumerate() {
            assert_eq!(method as usize, number);
            assert_eq!(Method::at(&format!("/{}/{}", method.service(), method.name())), Some(method));
        }
    }

    #[test]
    fn a_path_that_is_not_there_is_answered_as_grpc_go_does() {
        let check = |path: &str, expected: &str| {
            assert_eq!(Method::at(path), None, "{path}");
            assert_eq!(unknown(path), expected);
        };
        check("/etcdserverpb.Author/Enable", "unknown service etcdserverpb.Author");
        check("/v3lockpb.Lock/Look", "unknown method Look for service v3lockpb.Lock");
        check("/etcdserverpb.KV/Gut", "unknown method Gut for service etcdserverpb.KV");
        check("Range", "malformed method name: \"Range\"");
    }
}
