service {
  name = "mesh"
  kind = "mesh-gateway"
  port = 8443
  connect { native = true }
}
