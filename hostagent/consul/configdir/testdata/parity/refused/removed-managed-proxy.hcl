service {
  name = "web"
  port = 8080
  connect {
    proxy {
      command = ["consul", "connect", "proxy"]
    }
  }
}
