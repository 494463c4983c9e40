services {
  name = "web"
  port = 8080
}
services {
  id   = "web-envoy"
  name = "web-envoy"
  kind = "connect-proxy"
  port = 20000
  proxy {
    destination_service_name = "web"
    destination_service_id   = "web"
    local_service_address    = "127.0.0.1"
    local_service_port       = 8080
    upstreams {
      destination_name = "db"
      local_bind_port  = 9191
    }
  }
}
