# What stands in service comes after what stands in services, whatever the order in the file.
service {
  name = "first"
  port = 1
  connect { sidecar_service {} }
}
services {
  name = "second"
  port = 2
  connect { sidecar_service {} }
}
