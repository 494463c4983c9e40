service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      check {
        tcp      = "127.0.0.1:21000"
        interval = "10s"
        timeout  = "1"
      }
    }
  }
}
