package com.cloudbees.groovy.cps

/** Stands for Jenkins' own, so that the step's real file compiles. */
@interface NonCPS {}
