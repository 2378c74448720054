//! Objects in and out of a running endpoint by the command line.

use std::fs;
use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use proxystore_shared::Digest;
use proxystore_tests::free_port;

use super::support::Home;

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 31 % 251) as u8).collect()
}

#[test]
fn a_file_comes_back_as_it_was() {
    let (home, _) = Home::running();
    for size in [0, 1, 3_000_000] {
        let content = content(size);
        let file = home.file("in", &content);
        let put = home.run(&["put", "a", &file, "--json"]).succeeded().json();
        assert_eq!(
            (put["size"].as_u64(), put["digest"].as_str()),
            (Some(size as u64), Some(&*Digest::of(&content).to_string()))
        );
        let key = put["key"].as_str().unwrap();
        let out = home.path("out");
        let got = home.run(&["get", "a", key, "-o", out.to_str().unwrap(), "--json"]).succeeded().json();
        assert_eq!(got["received"].as_u64(), Some(size as u64));
        assert_eq!(fs::read(&out).unwrap(), content);
        assert!(!home.path("out.part").exists() && !home.path("out.part.etag").exists());
    }
}

#[test]
fn pipes_work_at_both_ends() {
    let (home, _) = Home::running();
    let content = content(1_000_000);
    let put = home.run_with_input(&["put", "a", "-", "--key", "tar/of all@once"], &content).succeeded();
    let key = put.text().trim().to_owned();
    assert!(key.starts_with("tar/of all@once@"), "{key}");
    assert_eq!(put.err, "", "quiet where nobody watches");
    assert_eq!(home.run(&["get", "a", &key, "-o", "-"]).succeeded().out, content);
}

#[test]
fn a_bare_object_id_is_local_and_a_strange_key_is_refused() {
    let (home, _) = Home::running();
    home.run_with_input(&["put", "a", "-", "--key", "one"], b"1").succeeded();
    assert_eq!(home.run(&["get", "a", "one", "-o", "-"]).succeeded().out, b"1");
    home.run(&["get", "a", "one@home", "-o", "-"]).failed(&["is not a key", "OBJECT_ID@ENDPOINT_ID"]);
    let out = home.path("out");
    home.run(&["get", "a", "two", "-o", out.to_str().unwrap()]).failed(&["no object", "404"]);
    assert!(!out.exists() && !home.path("out.part").exists());
}

#[test]
fn what_cannot_be_sent_is_named() {
    let (home, _) = Home::running();
    home.run(&["put", "a", "no-such-file"]).failed(&["no-such-file"]);
    home.run(&["put", "a", home.path("").to_str().unwrap()]).failed(&["is a folder", "tar"]);
    let file = home.file("in", b"1");
    home.run(&["put", "a", &file, "--key", ".."]).failed(&["\"..\""]);
    assert_eq!(home.run(&["put", "a", &file, "--remote", "nobody"]).code, 2);
    home.run(&["get", "a", "one", "-o", home.path("a").to_str().unwrap()]).failed(&["is a folder"]);
}

#[test]
fn an_object_over_the_limit_is_refused_in_the_endpoints_words() {
    let (home, _) = Home::with_endpoint(&["--max-object-size", "1000"]);
    home.run(&["start", "a"]).succeeded();
    let file = home.file("in", &content(1001));
    home.run(&["put", "a", &file]).failed(&["1000 bytes", "413", "hint"]);
}

#[test]
fn a_broken_download_continues_where_it_was() {
    let (home, _) = Home::running();
    let content = content(2_000_000);
    let file = home.file("in", &content);
    home.run(&["put", "a", &file, "--key", "big"]).succeeded();
    let out = home.path("out");
    let get = ["get", "a", "big", "-o", out.to_str().unwrap(), "--json"];
    let tag = Digest::of(&content).to_string();

    // The version and the bytes are right: only the rest travels.
    for (have, travels) in [(1_500_000, 500_000), (2_000_000, 0)] {
        fs::write(home.path("out.part"), &content[..have]).unwrap();
        fs::write(home.path("out.part.etag"), &tag).unwrap();
        let got = home.run(&get).succeeded().json();
        assert_eq!((got["received"].as_u64(), got["size"].as_u64()), (Some(travels), Some(2_000_000)));
        assert_eq!(fs::read(&out).unwrap(), content);
    }

    // Damaged bytes, too many bytes, another version, no version: all of it travels.
    for (part, tag) in [
        (vec![0; 1_000_000], tag.clone()),
        (vec![0; 2_000_000], tag.clone()),
        (vec![0; 2_000_001], tag),
        (content[..1000].to_vec(), Digest::of(b"other").to_string()),
        (content[..1000].to_vec(), "damaged".into()),
    ] {
        fs::write(home.path("out.part"), part).unwrap();
        fs::write(home.path("out.part.etag"), tag).unwrap();
        let got = home.run(&get).succeeded().json();
        assert_eq!(got["received"].as_u64(), Some(2_000_000));
        assert_eq!(fs::read(&out).unwrap(), content);
        assert!(!home.path("out.part").exists() && !home.path("out.part.etag").exists());
    }
}

/// In place of an endpoint: answers one request with these bytes and closes.
fn impostor(port: u16, answer: Vec<u8>) -> JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        stream.write_all(&answer).unwrap();
    })
}

fn read_head(stream: &mut impl Read) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        head.push(byte[0]);
    }
}

fn object_answer(tag: &Digest, size: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: \"{tag}\"\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Has commands look for the endpoint's HTTP API where nothing listens.
fn hide_http(home: &Home, port: u16) {
    let config = home.path("a/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let elsewhere = text.replace(&port.to_string(), &free_port().unwrap().to_string());
    assert_ne!(text, elsewhere);
    fs::write(config, elsewhere).unwrap();
}

#[test]
fn an_endpoint_on_this_host_reads_and_writes_files_itself() {
    let (home, port) = Home::running();
    let content = content(3_000_000);
    let digest = Digest::of(&content).to_string();
    let file = home.file("in", &content);
    let out = home.path("out");
    let get = ["get", "a", "big", "-o", out.to_str().unwrap(), "--json"];
    hide_http(&home, port);
    let put = home.run(&["put", "a", &file, "--key", "big", "--json"]).succeeded().json();
    assert_eq!((put["size"].as_u64(), put["digest"].as_str()), (Some(3_000_000), Some(&*digest)));
    home.run(&["get", "a", "big", "-o", "-"]).failed(&["unable to connect"]);
    fs::write(home.path("out.part"), "of nobody knows what").unwrap();
    let got = home.run(&get).succeeded().json();
    assert_eq!(
        (got["received"].as_u64(), got["size"].as_u64(), got["digest"].as_str()),
        (Some(3_000_000), Some(3_000_000), Some(&*digest))
    );
    assert_eq!(fs::read(&out).unwrap(), content);
    assert!(!home.path("out.part").exists() && !home.path("out.part.etag").exists());
}

#[test]
fn an_endpoint_that_takes_no_files_sends_the_object() {
    let (home, _) = Home::running();
    home.run_with_input(&["put", "a", "-", "--key", "one"], b"1").succeeded();
    let out = home.path("out");
    let get = ["get", "a", "one", "-o", out.to_str().unwrap()];
    let socket = home.path("a/files.sock");
    fs::remove_file(&socket).unwrap();
    home.run(&get).succeeded();
    // As one looks that a dead endpoint has left.
    drop(UnixListener::bind(&socket).unwrap());
    home.run(&get).succeeded();
    home.run(&["stop", "a"]).succeeded();
    home.run(&get).failed(&["unable to connect"]);
    home.run(&["start", "a"]).succeeded();
    home.run(&get).failed(&["no object"]);
    home.run(&["stop", "a"]).succeeded();
    assert!(!socket.exists());
}

/// In place of an endpoint that takes files: says this, without the file, and closes.
fn impostor_with_file(socket: &Path, reports: &str) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nETag: \"{}\"\r\nObject-Size: 100000\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{reports}\r\n",
        Digest::of(&content(100_000)),
        reports.len()
    );
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        stream.write_all(answer.as_bytes()).unwrap();
    })
}

#[test]
fn what_an_endpoint_has_written_is_continued() {
    let (home, _) = Home::with_endpoint(&[]);
    let content = content(100_000);
    let (out, part, socket) = (home.path("out"), home.path("out.part"), home.path("a/files.sock"));
    let get = ["get", "a", "big", "-o", out.to_str().unwrap(), "--json"];
    for (reports, why) in [
        (
            "{\"written\":60000}\n{\"failed\":\"the peer has gone\"}\n",
            "after 60000 of 100000 bytes: the peer has gone",
        ),
        ("{\"written\":60000}\n", "after 60000 of 100000 bytes"),
        ("{\"written\":60000}\nwhat?\n", "after 60000 of 100000 bytes: the answer is not an endpoint's"),
    ] {
        let _ = fs::remove_file(&socket);
        let _ = fs::remove_file(&part);
        let server = impostor_with_file(&socket, reports);
        home.run(&get).failed(&[why, "same command"]);
        server.join().unwrap();
        assert!(part.exists() && !out.exists());
    }
    fs::write(&part, &content[..60_000]).unwrap();
    home.run(&["start", "a"]).succeeded();
    home.run_with_input(&["put", "a", "-", "--key", "big"], &content).succeeded();
    assert_eq!(home.run(&get).succeeded().json()["received"].as_u64(), Some(40_000));
    assert_eq!(fs::read(&out).unwrap(), content);
}

#[test]
fn bytes_survive_a_broken_connection() {
    let (home, port) = Home::with_endpoint(&[]);
    let content = content(100_000);
    let out = home.path("out");
    let get = ["get", "a", "big", "-o", out.to_str().unwrap(), "--json"];
    let server = impostor(port, object_answer(&Digest::of(&content), content.len(), &content[..60_000]));
    home.run(&get).failed(&["broke off after 60000 of 100000 bytes", "same command"]);
    server.join().unwrap();
    assert!(!out.exists());
    assert_eq!(fs::read(home.path("out.part")).unwrap(), &content[..60_000]);

    home.run(&["start", "a"]).succeeded();
    home.run_with_input(&["put", "a", "-", "--key", "big"], &content).succeeded();
    assert_eq!(home.run(&get).succeeded().json()["received"].as_u64(), Some(40_000));
    assert_eq!(fs::read(&out).unwrap(), content);
}

#[test]
fn a_changed_object_never_gets_its_name() {
    let (home, port) = Home::with_endpoint(&[]);
    let out = home.path("out");
    let server = impostor(port, object_answer(&Digest::of(b"right"), 5, b"wrong"));
    home.run(&["get", "a", "x", "-o", out.to_str().unwrap()]).failed(&["is not the object", "deleted"]);
    server.join().unwrap();
    let server = impostor(port, object_answer(&Digest::of(b"right"), 5, b"wrong"));
    home.run(&["get", "a", "x", "-o", "-"]).failed(&["not the object"]);
    server.join().unwrap();
    assert!(!out.exists() && !home.path("out.part").exists() && !home.path("out.part.etag").exists());
}

#[test]
fn an_answer_without_a_digest_is_not_believed() {
    let (home, port) = Home::with_endpoint(&[]);
    let server = impostor(port, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec());
    home.run(&["get", "a", "x", "-o", "-"]).failed(&["ETag"]);
    server.join().unwrap();
}

#[test]
fn test_commands_say_what_pythons_say() {
    let (home, _) = Home::running();
    let put = home.run(&["test", "a", "put", "hello wörld"]).succeeded().text();
    let key = put.trim().strip_prefix("Put object in endpoint with key ").unwrap();
    assert_eq!(home.run(&["test", "a", "get", key]).succeeded().text(), "Result: hello wörld\n");
    assert_eq!(home.run(&["test", "a", "exists", key]).succeeded().text(), "Object exists: True\n");
    assert_eq!(home.run(&["test", "a", "evict", key]).succeeded().text(), "Evicted object from endpoint.\n");
    assert_eq!(home.run(&["test", "a", "exists", key]).succeeded().text(), "Object exists: False\n");
    assert_eq!(home.run(&["test", "a", "get", key]).succeeded().text(), "Object does not exist.\n");
    assert_eq!(home.run(&["--json", "test", "a", "exists", key]).succeeded().json()["exists"], false);

    home.run_with_input(&["put", "a", "-", "--key", "array"], b"NP\n12345").succeeded();
    assert_eq!(
        home.run(&["test", "a", "get", "array"]).succeeded().text(),
        "Result: <NumPy array, 5 bytes>\n"
    );
    home.run_with_input(&["put", "a", "-", "--key", "raw"], b"12345").succeeded();
    home.run(&["test", "a", "get", "raw"]).failed(&["not serialized"]);

    home.run(&["stop", "a"]).succeeded();
    home.run(&["test", "a", "exists", key]).failed(&["unable to connect", "127.0.0.1"]);
}
