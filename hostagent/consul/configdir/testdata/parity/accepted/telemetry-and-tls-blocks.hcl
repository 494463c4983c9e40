telemetry { prometheus_retention_time = "60s" }
tls {
  defaults { verify_outgoing = false }
}
retry_join = ["10.0.0.1", "provider=aws tag_key=a tag_value=b"]
limits { http_max_conns_per_client = 100 }
service {
  name = "web"
  port = 8080
}
