//! A tiny function service over two sites: its messages stay under 2 KB, while a data set and the results made of it
//! travel as proxies, from endpoint to endpoint.
//!
//! Three processes play their parts. This one starts a relay and the endpoints of two sites, and then is the
//! function service, which carries lines of text. A client at site A sends tasks; a worker at site B runs them.
//! Neither knows where the other is: each asks the endpoint of its own site.
//!
//! Run with `cargo run -p proxystore --release --example two_sites [DIRECTORY]`: the data set is the text files in
//! DIRECTORY, or else the sources that Cargo has downloaded.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use proxystore::{EndpointStore, Proxy};
use proxystore_shared::EndpointId;
use proxystore_tests::{Site, relay, url};
use serde::{Deserialize, Serialize};

/// What function services are comfortable with.
const MAX_MESSAGE_LEN: usize = 2_000;

/// Bytes of text that are enough to show something.
const DATA_SET_LEN: usize = 64_000_000;

#[derive(Serialize, Deserialize)]
struct Document {
    name: String,
    text: String,
}

type Corpus = Vec<Document>;
/// Word → the documents it is in, and how often.
type Index = BTreeMap<String, Vec<(u32, u32)>>;

#[derive(Serialize, Deserialize)]
enum Task {
    MakeIndex { corpus: Proxy<Corpus> },
    CountOccurrences { index: Proxy<Index>, word: String },
}

#[derive(Serialize, Deserialize)]
enum Outcome {
    Index(Proxy<Index>),
    Occurrences(u64),
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--client", endpoints, directory] => client(&ids(endpoints)?, Path::new(directory)).await,
        ["--worker", endpoints] => worker(&ids(endpoints)?).await,
        [] => function_service(&cargo_sources()?).await,
        [directory] if !directory.starts_with('-') => function_service(Path::new(directory)).await,
        _ => bail!("usage: two_sites [DIRECTORY]"),
    }
}

fn ids(list: &str) -> Result<Vec<EndpointId>> {
    list.split(',').map(|id| id.parse().with_context(|| format!("{id:?} is no endpoint id"))).collect()
}

/// Site A: has a data set, wants to know something of it.
async fn client(endpoints: &[EndpointId], directory: &Path) -> Result<()> {
    let store = EndpointStore::new("data", endpoints.iter().copied())?;
    let mut corpus = Corpus::new();
    collect(directory, &mut corpus, &mut 0);
    let len: usize = corpus.iter().map(|document| document.text.len()).sum();
    ensure!(len > 0, "{} has no text files", directory.display());
    eprintln!("site A   data set: {} of text in {} files", mega(len), corpus.len());

    let start = Instant::now();
    let proxy = store.proxy(&corpus).await?;
    eprintln!("site A   put it at the endpoint here in {}", speed(len, start));
    let Outcome::Index(index) = submit(&Task::MakeIndex { corpus: proxy })? else { bail!("no index") };

    let start = Instant::now();
    index.resolve_async().await?;
    let received: usize = index.iter().map(|(word, places)| word.len() + 8 * places.len()).sum();
    eprintln!("site A   fetched the index of {} words in {}", index.len(), speed(received, start));

    let word = "proxy".to_owned();
    let here: u64 = index.get(&word).map_or(0, |places| places.iter().map(|place| u64::from(place.1)).sum());
    let Outcome::Occurrences(there) = submit(&Task::CountOccurrences { index, word: word.clone() })? else {
        bail!("no number")
    };
    ensure!(here == there, "site B counted {there}, site A {here}");
    eprintln!("site A   both sites find {word:?} {here} times");
    Ok(())
}

/// Sends a task through the function service and waits for its outcome.
fn submit(task: &Task) -> Result<Outcome> {
    println!("{}", serde_json::to_string(task)?);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Site B: runs what it is told.
async fn worker(endpoints: &[EndpointId]) -> Result<()> {
    let store = EndpointStore::new("results", endpoints.iter().copied())?;
    for line in std::io::stdin().lines() {
        let outcome = match serde_json::from_str(&line?)? {
            Task::MakeIndex { corpus } => {
                let start = Instant::now();
                corpus.resolve_async().await?;
                let len = corpus.iter().map(|document| document.text.len()).sum();
                eprintln!("site B   fetched the data set from site A in {}", speed(len, start));
                Outcome::Index(store.proxy(&make_index(&corpus)).await?)
            }
            Task::CountOccurrences { index, word } => {
                let places = index.resolve_async().await?.get(&word);
                Outcome::Occurrences(places.into_iter().flatten().map(|place| u64::from(place.1)).sum())
            }
        };
        println!("{}", serde_json::to_string(&outcome)?);
    }
    Ok(())
}

fn make_index(corpus: &Corpus) -> Index {
    let mut index = Index::new();
    for (number, document) in corpus.iter().enumerate() {
        for word in document.text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            if !index.contains_key(word) {
                index.insert(word.to_owned(), Vec::new());
            }
            let Some(places) = index.get_mut(word) else { continue };
            match places.last_mut() {
                Some((last, count)) if *last == number as u32 => *count += 1,
                _ => places.push((number as u32, 1)),
            }
        }
    }
    index
}

/// In the middle: two sites are started, and from then on only lines are carried.
async fn function_service(directory: &Path) -> Result<()> {
    let relay = relay().await?;
    let (a, b) = (Site::start("site-a", &url(&relay)).await?, Site::start("site-b", &url(&relay)).await?);
    println!("service  a relay and two endpoints run: {} (site A), {} (site B)", a.id(), b.id());
    let endpoints = format!("{},{}", a.id(), b.id());
    let (home_a, home_b) = (home_of(&a)?, home_of(&b)?);
    let directory = directory.to_str().context("the directory's name is not UTF-8")?;
    let client = Process::start(&["--client", &endpoints, directory], home_a.path())?;
    let worker = Process::start(&["--worker", &endpoints], home_b.path())?;
    let carried = tokio::task::spawn_blocking(move || carry(client, worker)).await??;
    println!("service  carried {carried} bytes in all; the data went from endpoint to endpoint");
    Ok(())
}

/// Carries tasks one way and outcomes the other, until the client ends.
fn carry(mut client: Process, mut worker: Process) -> Result<usize> {
    let mut carried = 0;
    while let Some(task) = client.receive()? {
        println!("service  task of {} bytes: site A → site B", task.len());
        worker.send(&task)?;
        let outcome = worker.receive()?.context("the worker ended")?;
        println!("service  outcome of {} bytes: site B → site A", outcome.len());
        client.send(&outcome)?;
        carried += task.len() + outcome.len();
        ensure!(task.len().max(outcome.len()) < MAX_MESSAGE_LEN, "a message is too long");
    }
    ensure!(client.child.wait()?.success(), "the client failed");
    Ok(carried)
}

/// A part played by this same program, at a site of its own.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(arguments: &[&str], home: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).env("PROXYSTORE_HOME", home).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, input, output })
    }

    fn send(&mut self, line: &str) -> Result<()> {
        Ok(self.input.write_all(line.as_bytes())?)
    }

    fn receive(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        Ok((self.output.read_line(&mut line)? > 0).then_some(line))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended; there is nothing to do about anything else.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `endpoint start` leaves in the ProxyStore home of a site.
fn home_of(site: &Site) -> Result<tempfile::TempDir> {
    let home = tempfile::tempdir()?;
    let folder = home.path().join(&site.config.name);
    fs::create_dir(&folder)?;
    fs::write(folder.join("config.toml"), toml::to_string(&site.config)?)?;
    Ok(home)
}

fn cargo_sources() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    Ok(home.context("neither CARGO_HOME nor HOME is set: name a DIRECTORY")?.join("registry/src"))
}

/// Text files in `directory` and below, until there are enough.
fn collect(directory: &Path, corpus: &mut Corpus, len: &mut usize) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if *len >= DATA_SET_LEN {
            return;
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, corpus, len);
        } else if let Ok(text) = fs::read_to_string(&path) {
            *len += text.len();
            corpus.push(Document { name: path.display().to_string(), text });
        }
    }
}

fn mega(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn speed(bytes: usize, start: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64();
    format!("{seconds:.2} s ({}, {:.0} MB/s with serialization)", mega(bytes), bytes as f64 / 1e6 / seconds)
}
