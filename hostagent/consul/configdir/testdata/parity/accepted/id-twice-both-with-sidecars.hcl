# The second sidecar takes over the first one's port.
services {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
services {
  name = "web"
  port = 8081
  connect {
    sidecar_service {
      proxy {
        upstreams {
          destination_name = "db"
          local_bind_port  = 9191
        }
      }
    }
  }
}
services {
  name = "db"
  port = 5432
  connect { sidecar_service {} }
}
