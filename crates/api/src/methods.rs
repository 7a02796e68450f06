//! The registered gRPC methods, by path: those of served services; an unimplemented one is refused by name. Other
//! services get gRPC's own response for an unknown service.

macro_rules! methods {
    ($($(#[$doc:meta])* $kind:ident { $($variant:ident = $service:literal $name:literal;)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(crate) enum $kind {
                $(
                    #[doc = concat!("`/", $service, "/", $name, "`")]
                    $variant,
                )*
            }
        )*

        /// A method, grouped by how many messages go each way.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind {
            $(
                $(#[$doc])*
                $kind($kind),
            )*
        }

        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Method {
            $($(
                #[doc = concat!("`/", $service, "/", $name, "`")]
                $variant,
            )*)*
        }

        impl Method {
            pub(crate) const ALL: &[Self] = &[$($(Self::$variant,)*)*];

            pub(crate) fn at(path: &str) -> Option<Self> {
                match path {
                    $($(concat!("/", $service, "/", $name) => Some(Self::$variant),)*)*
                    _ => None,
                }
            }

            pub(crate) fn service(self) -> &'static str {
                match self {
                    $($(Self::$variant => $service,)*)*
                }
            }

            pub(crate) fn name(self) -> &'static str {
                match self {
                    $($(Self::$variant => $name,)*)*
                }
            }

            pub(crate) fn kind(self) -> Kind {
                match self {
                    $($(Self::$variant => Kind::$kind($kind::$variant),)*)*
                }
            }
        }
    };
}

methods! {
    /// Unary, and so frequent that a call must not allocate a box.
    Frequent {
        Range = "etcdserverpb.KV" "Range";
        Put = "etcdserverpb.KV" "Put";
        Txn = "etcdserverpb.KV" "Txn";
        DeleteRange = "etcdserverpb.KV" "DeleteRange";
    }
    /// Unary, but not frequent.
    Rare {
        Compact = "etcdserverpb.KV" "Compact";
        Lock = "v3lockpb.Lock" "Lock";
        Unlock = "v3lockpb.Lock" "Unlock";
        Campaign = "v3electionpb.Election" "Campaign";
        Proclaim = "v3electionpb.Election" "Proclaim";
        Leader = "v3electionpb.Election" "Leader";
        Resign = "v3electionpb.Election" "Resign";
        LeaseGrant = "etcdserverpb.Lease" "LeaseGrant";
        LeaseRevoke = "etcdserverpb.Lease" "LeaseRevoke";
        LeaseTimeToLive = "etcdserverpb.Lease" "LeaseTimeToLive";
        LeaseLeases = "etcdserverpb.Lease" "LeaseLeases";
        MemberAdd = "etcdserverpb.Cluster" "MemberAdd";
        MemberRemove = "etcdserverpb.Cluster" "MemberRemove";
        MemberUpdate = "etcdserverpb.Cluster" "MemberUpdate";
        MemberList = "etcdserverpb.Cluster" "MemberList";
        MemberPromote = "etcdserverpb.Cluster" "MemberPromote";
        Alarm = "etcdserverpb.Maintenance" "Alarm";
        Status = "etcdserverpb.Maintenance" "Status";
        Defragment = "etcdserverpb.Maintenance" "Defragment";
        Hash = "etcdserverpb.Maintenance" "Hash";
        HashKv = "etcdserverpb.Maintenance" "HashKV";
        MoveLeader = "etcdserverpb.Maintenance" "MoveLeader";
        Downgrade = "etcdserverpb.Maintenance" "Downgrade";
        AuthEnable = "etcdserverpb.Auth" "AuthEnable";
        AuthDisable = "etcdserverpb.Auth" "AuthDisable";
        AuthStatus = "etcdserverpb.Auth" "AuthStatus";
        Authenticate = "etcdserverpb.Auth" "Authenticate";
        UserAdd = "etcdserverpb.Auth" "UserAdd";
        UserGet = "etcdserverpb.Auth" "UserGet";
        UserList = "etcdserverpb.Auth" "UserList";
        UserDelete = "etcdserverpb.Auth" "UserDelete";
        UserChangePassword = "etcdserverpb.Auth" "UserChangePassword";
        UserGrantRole = "etcdserverpb.Auth" "UserGrantRole";
        UserRevokeRole = "etcdserverpb.Auth" "UserRevokeRole";
        RoleAdd = "etcdserverpb.Auth" "RoleAdd";
        RoleGet = "etcdserverpb.Auth" "RoleGet";
        RoleList = "etcdserverpb.Auth" "RoleList";
        RoleDelete = "etcdserverpb.Auth" "RoleDelete";
        RoleGrantPermission = "etcdserverpb.Auth" "RoleGrantPermission";
        RoleRevokePermission = "etcdserverpb.Auth" "RoleRevokePermission";
        HealthCheck = "grpc.health.v1.Health" "Check";
        HealthList = "grpc.health.v1.Health" "List";
    }
    /// One request, a stream of responses.
    ServerStream {
        RangeStream = "etcdserverpb.KV" "RangeStream";
        Observe = "v3electionpb.Election" "Observe";
        Snapshot = "etcdserverpb.Maintenance" "Snapshot";
        HealthWatch = "grpc.health.v1.Health" "Watch";
    }
    /// A stream each way.
    BidiStream {
        Watch = "etcdserverpb.Watch" "Watch";
        LeaseKeepAlive = "etcdserverpb.Lease" "LeaseKeepAlive";
    }
}

impl Method {
    /// The value of the label `grpc_type`.
    pub(crate) fn label(self) -> &'static str {
        match self.kind() {
            Kind::Frequent(_) | Kind::Rare(_) => "unary",
            Kind::ServerStream(_) => "server_stream",
            Kind::BidiStream(_) => "bidi_stream",
        }
    }

    /// Whether it reads or changes keys, leases, or what is built on them.
    pub(crate) fn is_of_the_data(self) -> bool {
        matches!(
            self.service(),
            "etcdserverpb.KV"
                | "etcdserverpb.Watch"
                | "etcdserverpb.Lease"
                | "v3lockpb.Lock"
                | "v3electionpb.Election"
        )
    }

    /// Whether its responses continue until something else ends them.
    pub(crate) fn is_endless(self) -> bool {
        matches!(self.kind(), Kind::BidiStream(_) | Kind::ServerStream(ServerStream::Observe))
    }
}

/// grpc-go's text for a path that is not in the table.
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
    fn members_and_maintenance_are_no_data() {
        for (method, expected) in [
            (Method::Range, true),
            (Method::Watch, true),
            (Method::LeaseKeepAlive, true),
            (Method::Lock, true),
            (Method::Observe, true),
            (Method::MemberRemove, false),
            (Method::Snapshot, false),
            (Method::HashKv, false),
            (Method::HealthWatch, false),
        ] {
            assert_eq!(method.is_of_the_data(), expected, "{method:?}");
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
