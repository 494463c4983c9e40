service {
  name = "web-proxy"
  kind = "connect-proxy"
  port = 20000
  proxy {
    destination_service_name = "web"
    upstreams {
      destination_name = "db"
      local_bind_port  = 9191
    }
    upstreams {
      destination_name   = "cache"
      local_bind_address = "127.0.0.1"
      local_bind_port    = 9191
    }
  }
}
