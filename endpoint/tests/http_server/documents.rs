//! What the server says of itself.

use std::collections::BTreeSet;

use proxystore_shared::http::{HEALTHZ, METRICS, python, v1};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Server, assert_problem};

/// Every path there is.
const PATHS: [&str; 15] = [
    python::ROOT,
    python::ENDPOINT,
    python::EXISTS,
    python::GET,
    python::SET,
    python::EVICT,
    v1::OBJECT,
    v1::OBJECTS,
    v1::BATCH_PUT,
    v1::BATCH_GET,
    v1::PEERS,
    v1::STATUS,
    v1::OPENAPI,
    HEALTHZ,
    METRICS,
];

async fn document(server: &Server) -> Value {
    server.get(v1::OPENAPI).await.json().await.expect("JSON")
}

#[tokio::test]
async fn the_document_has_every_route_and_no_other() {
    let server = Server::start().await;
    let document = document(&server).await;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let paths = document["paths"].as_object().expect("paths");
    let documented: BTreeSet<&str> = paths.keys().map(String::as_str).collect();
    assert_eq!(documented, BTreeSet::from(PATHS));
    for (path, item) in paths {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
            // What answers GET answers HEAD.
            let documented = item.get(method.as_str().to_lowercase()).is_some()
                || (method == Method::HEAD && item.get("get").is_some());
            let answer = server.request(method.clone(), &path.replace("{object_id}", "a")).send().await;
            let served = answer.expect("an answer").status() != 405;
            assert_eq!(served, documented, "{method} {path}");
        }
    }
    let metrics = server.get(METRICS).await.text().await.expect("text");
    assert!(!metrics.contains(r#"route="unknown",status"#), "every route has a name in the metrics");
}

#[tokio::test]
async fn the_document_describes_errors_and_parameters() {
    let server = Server::start().await;
    let document = document(&server).await;
    let get = &document["paths"][v1::OBJECT]["get"];
    assert!(get["responses"]["404"]["content"].get("application/problem+json").is_some(), "{get}");
    let parameters: Vec<_> =
        get["parameters"].as_array().expect("a list").iter().map(|p| &p["name"]).collect();
    assert!(
        parameters.contains(&&json!("endpoint")) && parameters.contains(&&json!("Range")),
        "{parameters:?}"
    );
    assert!(document["components"]["schemas"].get("Problem").is_some());
}

#[tokio::test]
async fn the_document_is_what_openapi_demands() {
    let server = Server::start().await;
    let document = document(&server).await;
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let name = operation["operationId"].as_str().expect("a name").to_owned();
            assert!(names.insert(name), "{method} {path}: the name is taken");
            for (status, response) in operation["responses"].as_object().expect("responses") {
                assert!(response["description"].is_string(), "{method} {path} {status}");
            }
        }
    }
}

#[tokio::test]
async fn status_tells_what_is_here() {
    let server = Server::start().await;
    assert_eq!(server.put("/v1/objects/a", "hello").await.status(), 201);
    let status: Value = server.get(v1::STATUS).await.json().await.expect("JSON");
    assert_eq!(status["id"], server.id.to_string());
    assert_eq!(
        (&status["name"], &status["mode"], &status["relay"]),
        (&json!("test"), &json!("solo"), &Value::Null)
    );
    assert_eq!(status["storage"], json!({"objects": 1, "bytes": 5, "limit": null}));
    assert!(status["uptime_seconds"].as_f64().is_some_and(|uptime| uptime >= 0.0));
    assert!(status["version"].is_string());
    let peers: Value = server.get(v1::PEERS).await.json().await.expect("JSON");
    assert_eq!(peers, json!({"peers": []}));
    assert_eq!(server.get(HEALTHZ).await.status(), 200);
}

#[tokio::test]
async fn metrics_count_requests_and_bytes() {
    let server = Server::start().await;
    assert_eq!(server.post("/set?key=a", "hello").await.status(), 200);
    for _ in 0..3 {
        assert_eq!(server.get("/get?key=a").await.text().await.expect("body"), "hello");
    }
    assert_eq!(server.get("/v1/objects/none").await.status(), 404);
    assert_eq!(server.get("/v1/objects/none/such").await.status(), 404);
    let answer = server.get(METRICS).await;
    assert!(
        answer.headers()["content-type"].to_str().expect("text").starts_with("application/openmetrics-text")
    );
    let metrics = answer.text().await.expect("text");
    for line in [
        r#"proxystore_endpoint_http_requests_total{route="/set",status="200"} 1"#,
        r#"proxystore_endpoint_http_requests_total{route="/get",status="200"} 3"#,
        r#"proxystore_endpoint_http_requests_total{route="/v1/objects/{object_id}",status="404"} 1"#,
        r#"proxystore_endpoint_http_requests_total{route="unknown",status="404"} 1"#,
        r#"proxystore_endpoint_http_request_duration_seconds_count{route="/get"} 3"#,
        "proxystore_endpoint_http_received_bytes_total 5",
        "proxystore_endpoint_http_sent_bytes_total 15",
        "proxystore_endpoint_objects 1",
        "proxystore_endpoint_stored_bytes 5",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
}

#[tokio::test]
async fn unknown_resources_are_problems() {
    let server = Server::start().await;
    assert_problem(server.get("/v1/nothing").await, 404, "no_such_route").await;
    let wrong = server.post("/v1/status", "").await;
    assert_eq!(wrong.headers()["allow"], "GET,HEAD");
    assert_problem(wrong, 405, "no_such_method").await;
}
