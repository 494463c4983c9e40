# As with upstreams, a sidecar is not validated.
service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        expose {
          paths {
            path          = ""
            listener_port = 99999
          }
        }
      }
    }
  }
}
