ports { sidecar_min_port = -1 }
service {
  name = "a"
  port = 1
  connect { sidecar_service { port = 21000 } }
}
