use proxystore::connectors::LocalConnector;

#[test]
fn contract() {
    crate::check_contract(LocalConnector::new());
}
