ports {
  http = 8500
}
ports {
  grpc = 8502
}
