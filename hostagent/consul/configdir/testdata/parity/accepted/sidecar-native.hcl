# Nothing validates a sidecar: by itself a proxy could not be native.
service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      connect { native = true }
    }
  }
}
