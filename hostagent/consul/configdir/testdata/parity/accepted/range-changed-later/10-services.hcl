# The settings of all files count for each.
service {
  name = "a"
  port = 1
  connect { sidecar_service {} }
}
