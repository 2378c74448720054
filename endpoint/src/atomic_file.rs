//! Small files that are replaced as a whole: the configuration, the record of peers' keys.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Puts `text` in place of the content of `path`, whose permissions stay. Readers see the old content or the new,
/// never less.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("toml.{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&draft)?;
        match fs::metadata(path) {
            Ok(old) => file.set_permissions(old.permissions())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    // What remains of a failed attempt is of no use to anybody.
    write().inspect_err(|_| drop(fs::remove_file(&draft)))
}
