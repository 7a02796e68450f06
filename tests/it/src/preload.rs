//! Libraries of ours that are slipped under a server: `preload/*.c`, built with the C compiler that linking needs too.

use crate::target_dir;
use anyhow::{Context as _, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Builds `preload/NAME.c`: the library, for `LD_PRELOAD`. Several processes may do so at once.
///
/// # Errors
/// Where it does not compile, with what the compiler says.
pub fn build(name: &str) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("preload/{name}.c"));
    let folder = target_dir().join("preload");
    fs::create_dir_all(&folder)?;
    let made = folder.join(format!("{name}-{}.so", std::process::id()));
    let path = folder.join(format!("{name}.so"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built = Command::new(&compiler)
        .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(&made)
        .arg(source)
        .args(["-ldl", "-lpthread"])
        .output()
        .with_context(|| format!("cannot run the C compiler {}", compiler.display()))?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    fs::rename(&made, &path)?;
    Ok(path.canonicalize()?)
}
