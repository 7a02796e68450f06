//! The compose file itself: docker compose reads it, and it has what the README promises. Needs no engine.

use harness::{Compose, SERVICES};

#[test]
fn the_compose_file_is_valid_and_has_three_members_that_come_back() {
    let config = Compose::prepare().unwrap().config().unwrap();
    for name in SERVICES {
        assert!(config.contains(&format!("\n  {name}:\n")), "no service {name}:\n{config}");
    }
    for line in ["restart: unless-stopped", "healthcheck:", "read_only: true", "pull_policy: never"] {
        let count = config.lines().filter(|shown| shown.trim() == line).count();
        assert_eq!(count, SERVICES.len(), "{line:?} stands {count} times in:\n{config}");
    }
    for (member, port) in ["2379", "22379", "32379"].iter().enumerate() {
        let file = std::fs::read_to_string(Compose::file()).unwrap();
        let published = format!("${{QUORATE_PORT{}:-127.0.0.1:{port}}}:2379", member + 1);
        assert!(file.contains(&published), "{published} is not published");
        assert!(config.contains(&format!("data{}", member + 1)), "no volume data{}", member + 1);
    }
}
