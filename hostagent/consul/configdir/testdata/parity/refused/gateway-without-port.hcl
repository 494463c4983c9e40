service {
  name = "mesh"
  kind = "mesh-gateway"
}
