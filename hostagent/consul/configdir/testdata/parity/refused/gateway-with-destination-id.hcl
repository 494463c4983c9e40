service {
  name = "mesh"
  kind = "mesh-gateway"
  port = 8443
  proxy { destination_service_id = "web" }
}
