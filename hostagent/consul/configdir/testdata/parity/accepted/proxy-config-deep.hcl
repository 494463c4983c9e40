service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        config {
          protocol = "http"
          nested {
            list = [{ a = 1 }, { a = 2 }]
            deeper {
              bind_port = 1
            }
          }
          envoy_public_listener_json = <<-EOF
            {"service": {"name": "not-one", "port": 1}}
          EOF
        }
      }
    }
  }
}
