service {
  name = "web-envoy"
  kind = "connect-proxy"
  port = 20000
  proxy {
    destination_service_name = "web"
    upstreams {
      destination_name      = "db"
      destination_partition = "part-b"
      datacenter            = "dc2"
      local_bind_port       = 9191
    }
  }
}
