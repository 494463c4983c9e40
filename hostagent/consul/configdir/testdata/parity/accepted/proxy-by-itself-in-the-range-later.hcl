# Consul does not look ahead: both have port 21000.
services {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
services {
  name = "db-envoy"
  kind = "connect-proxy"
  port = 21000
  proxy { destination_service_name = "db" }
}
