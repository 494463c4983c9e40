service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        upstreams {
          destination_name      = "db"
          destination_namespace = "team-b"
          destination_partition = "part-b"
          local_bind_port       = 9191
        }
      }
    }
  }
}
