enable_local_script_checks = true
service {
  name = "web"
  port = 8080
  checks = [
    { name = "ttl", ttl = "30s" },
    { name = "http", http = "http://127.0.0.1:8080/", method = "HEAD", interval = "10s", timeout = "1s", header { x = ["1"] } },
    { name = "tcp", tcp = "127.0.0.1:8080", interval = "10s", failures_before_critical = 3 },
    { name = "grpc", grpc = "127.0.0.1:8080", grpc_use_tls = true, interval = "10s" },
    { name = "script", args = ["/bin/true"], interval = "60s" },
    { name = "alias", alias_service = "db" },
    { name = "udp", udp = "127.0.0.1:8080", interval = "10s" },
    { name = "h2", h2ping = "127.0.0.1:8080", interval = "10s" },
  ]
  check {
    id       = "one-more"
    tcp      = "127.0.0.1:8080"
    interval = "10s"
    deregister_critical_service_after = "72h"
  }
}
check {
  name      = "node"
  ttl       = "1h"
}
checks {
  name       = "of web"
  service_id = "web"
  ttl        = "1h"
}
