service {
  name = "web-proxy"
  kind = "connect-proxy"
  port = 20000
  proxy {
    destination_service_name = "web"
    upstreams { destination_name = "db" }
  }
}
