//! `nearkin data get`

use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};

use super::super::bad_input;
use crate::output::print;

/// Download an official archive and compare it with its known checksum.
///
/// A download that was cut off is continued by the next call. The work is done by the program curl.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Which data set.
    name: Name,
    /// The folder for the archive.
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    /// Fetch the file from this address instead of the official one; its checksum has to be the same.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Cifar10,
    Cifar100,
    Stl10,
    TinyImagenet,
}

/// An official archive. The checksums are those that several projects state for the official files.
struct Archive {
    file: &'static str,
    url: &'static str,
    /// Where its authors describe and offer it.
    page: &'static str,
    bytes: u64,
    sha256: &'static str,
    /// What unpacks it, if it is not read as it is.
    unpack: Option<&'static str>,
}

impl Name {
    fn archive(self) -> Archive {
        match self {
            Self::Cifar10 => Archive {
                file: "cifar-10-binary.tar.gz",
                url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                page: "https://www.cs.toronto.edu/~kriz/cifar.html",
                bytes: 170_052_171,
                sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                unpack: None,
            },
            Self::Cifar100 => Archive {
                file: "cifar-100-binary.tar.gz",
                url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                page: "https://www.cs.toronto.edu/~kriz/cifar.html",
                bytes: 168_513_733,
                sha256: "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                unpack: None,
            },
            Self::Stl10 => Archive {
                file: "stl10_binary.tar.gz",
                url: "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
                page: "https://cs.stanford.edu/~acoates/stl10/",
                bytes: 2_640_397_119,
                sha256: "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
                unpack: Some("tar -xzf"),
            },
            Self::TinyImagenet => Archive {
                file: "tiny-imagenet-200.zip",
                url: "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                page: "http://cs231n.stanford.edu/",
                bytes: 248_100_043,
                sha256: "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
                unpack: Some("unzip -q"),
            },
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let archive = arguments.name.archive();
    let url = arguments.from.as_deref().unwrap_or(archive.url);
    let path = archive.fetch(url, &arguments.to)?;
    let path = path.display();
    let next = match archive.unpack {
        Some(unpack) => format!("unpack it: {unpack} {path}"),
        None => format!("train on it as it is: --data {path}"),
    };
    print(&format!("{path}: {} bytes, checksum as published\n{next}\n", archive.bytes))?;
    Ok(ExitCode::SUCCESS)
}

impl Archive {
    /// The path of the whole and verified file in `folder`; what is there already is kept.
    fn fetch(&self, url: &str, folder: &Path) -> anyhow::Result<PathBuf> {
        let path = folder.join(self.file);
        if path.exists() {
            self.verify(&path).map(|()| path)
        } else {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
            let partial = folder.join(format!("{}.partial", self.file));
            let length = fs::metadata(&partial).map_or(0, |metadata| metadata.len());
            if length < self.bytes {
                self.download(url, &partial, folder)?;
            }
            self.verify(&partial)?;
            fs::rename(&partial, &path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        }
    }

    fn verify(&self, path: &Path) -> anyhow::Result<()> {
        let (bytes, sha256) =
            digest(path).with_context(|| format!("cannot read {}", path.display()))?;
        if (bytes, sha256.as_str()) == (self.bytes, self.sha256) {
            return Ok(());
        }
        Err(bad_input(format!(
            "{} is not the official file: it has {bytes} bytes and SHA-256 {sha256}, not {} and \
             {}; delete it and fetch it again, or see {}",
            path.display(),
            self.bytes,
            self.sha256,
            self.page
        )))
    }

    /// Continues `partial` up to its end.
    fn download(&self, url: &str, partial: &Path, folder: &Path) -> anyhow::Result<()> {
        let shows_progress = std::io::stderr().is_terminal();
        let mut curl = Command::new("curl");
        curl.args(["--fail", "--location", "--proto", "=https,http,file", "--retry", "3"])
            .args(["--connect-timeout", "20", "--continue-at", "-"])
            .args(if shows_progress {
                &["--progress-bar"][..]
            } else {
                &["--silent", "--show-error"]
            })
            .arg("--output")
            .arg(partial)
            .args(["--", url])
            .stdin(Stdio::null());
        let by_hand = format!(
            "without a network here, download {} from {} on another machine and put it into {}",
            self.file,
            self.page,
            folder.display()
        );
        let said =
            if shows_progress { curl.stderr(Stdio::inherit()).output() } else { curl.output() };
        let said = match said {
            Ok(said) => said,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                anyhow::bail!(
                    "the program curl is not installed, and it does the downloading: install it; \
                     {by_hand}"
                );
            }
            Err(error) => return Err(error).context("cannot start curl"),
        };
        if said.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&said.stderr);
        let reason = reason.lines().next_back().unwrap_or("see above").trim();
        anyhow::bail!("cannot fetch {url} ({reason}); {by_hand}")
    }
}

/// Length and SHA-256 in hexadecimal.
fn digest(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut digest, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        digest.update(&buffer[..read]);
    }
    let hex =
        digest.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    Ok((bytes, hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "hello world", whose SHA-256 is well known.
    const SMALL: Archive = Archive {
        file: "hello.txt",
        url: "unused",
        page: "https://example.org/page",
        bytes: 11,
        sha256: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
        unpack: None,
    };

    fn source(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("source");
        fs::write(&file, text).expect("a file");
        let url = format!("file://{}", file.display());
        (folder, url)
    }

    #[test]
    fn a_download_is_verified_and_kept() {
        let (folder, url) = source("hello world");
        let to = folder.path().join("new/place");
        let path = SMALL.fetch(&url, &to).expect("the file");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "hello world");
        assert_eq!(fs::read_dir(&to).expect("a folder").count(), 1);
        SMALL.fetch("file:///nowhere", &to).expect("what is there is not fetched again");
    }

    #[test]
    fn a_download_that_was_cut_off_is_continued() {
        // Only the end can come from here: the start is another text.
        let (folder, url) = source("HELLO world");
        fs::write(folder.path().join("hello.txt.partial"), "hello").expect("a file");
        let path = SMALL.fetch(&url, folder.path()).expect("the file");
        assert_eq!(fs::read_to_string(path).expect("a file"), "hello world");
        // One that lacked nothing but its name needs no network.
        let (folder, _) = source("");
        fs::write(folder.path().join("hello.txt.partial"), "hello world").expect("a file");
        SMALL.fetch("file:///nowhere", folder.path()).expect("the file");
    }

    #[test]
    fn another_file_is_refused_and_does_not_get_the_name() {
        let (folder, url) = source("hello w0rld");
        let message = SMALL.fetch(&url, folder.path()).expect_err("another").to_string();
        assert!(message.contains("hello.txt.partial is not the official file"), "{message}");
        assert!(message.contains("https://example.org/page"), "{message}");
        assert!(!folder.path().join("hello.txt").exists());
    }

    #[test]
    fn every_archive_states_a_checksum_and_a_page() {
        for name in Name::value_variants() {
            let archive = name.archive();
            assert_eq!(archive.sha256.len(), 64);
            assert!(archive.url.ends_with(archive.file) && archive.page.starts_with("http"));
        }
    }
}
