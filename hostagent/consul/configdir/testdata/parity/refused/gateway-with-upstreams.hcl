service {
  name = "terminating"
  kind = "terminating-gateway"
  port = 8443
  proxy {
    upstreams {
      destination_name = "db"
      local_bind_port  = 9191
    }
  }
}
