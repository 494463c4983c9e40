services {
  name = "a"
  port = 1
  connect {
    sidecar_service { port = 21000 }
  }
}
services {
  name = "b"
  port = 2
  connect { sidecar_service {} }
}
services {
  name = "c"
  port = 3
  connect {
    sidecar_service { port = 21001 }
  }
}
